"""Ray's torch trainer without the helper processes that no training here needs. For use inside functions: imports Ray.

Each helper of Ray Train is a process that imports Ray, Ray Train and torch: half of the start-up time of a training
on a laptop.
"""

from __future__ import annotations

import os
from typing import Any

from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

from vim_core.training.interruptions import listen

SINGLE_NODE_ENV = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
"""The only node is never drained; the controller polls its workers twice a second for completion."""


class SignalTorchBackend(_TorchBackend):
    """Handles SIGTERM in every worker's main thread, before the training function runs in another thread."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Called by Ray on the controller."""
        worker_group.execute(listen)
        super().on_start(worker_group, backend_config)


class SignalTorchConfig(TorchConfig):
    """Chooses `SignalTorchBackend`."""

    @property
    def backend_cls(self) -> type[SignalTorchBackend]:
        """Called by Ray."""
        return SignalTorchBackend


class LeanTrainer(TorchTrainer):
    """A `TorchTrainer` without the actor for Ray Data, which no training here reads."""

    unneeded: tuple[str, ...] = ("DatasetsCallback",)

    def _create_default_callbacks(self) -> Any:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]  # the V2 trainer has it
        return [callback for callback in callbacks if type(callback).__name__ not in self.unneeded]


class SingleNodeTrainer(LeanTrainer):
    """For a cluster that ends with this process: its controller, its workers and their barrier alone."""

    # Placement groups do not outlive such a cluster.
    unneeded = (*LeanTrainer.unneeded, "PlacementGroupCleanerCallback")

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        scaling: Any = self.scaling_config
        arguments["scaling_policy"] = NoAutoscalerPolicy(scaling)
        # Ray copies these variables to its controller; those that the user has set stay.
        added = {name: value for name, value in SINGLE_NODE_ENV.items() if name not in os.environ}
        os.environ |= added
        try:
            return super()._initialize_and_run_controller(**arguments)  # type: ignore[misc]
        finally:
            for name in added:
                os.environ.pop(name, None)


class NoAutoscalerPolicy(FixedScalingPolicy):
    """A fixed number of workers that asks no autoscaler: a single node cannot grow."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Called by Ray; registers nothing."""

    def _maybe_send_resource_request(self) -> None:
        """Called by Ray before every decision; sends nothing."""
