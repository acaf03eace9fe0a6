"""Ray's torch backend, with workers that hear SIGTERM. Imports Ray: for use inside functions only."""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from components.engines.ray.preemption import listen


class ListeningBackend(_TorchBackend):
    """Installs the handler in every worker's main thread, before the training function runs in another one."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Called by Ray on the controller."""
        worker_group.execute(listen)
        super().on_start(worker_group, backend_config)


class ListeningConfig(TorchConfig):
    """Chooses `ListeningBackend`."""

    @property
    def backend_cls(self) -> type[ListeningBackend]:
        """Asked by Ray."""
        return ListeningBackend
