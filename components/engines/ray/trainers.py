"""Ray's torch trainer with the processes that a training here needs. Imports Ray: for use inside functions only.

Each helper of Ray Train is a process that imports Ray, Ray Train and torch: half of what it takes to start a training
on a laptop.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

ALONE = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
"""Nobody announces that the only node goes; the controller asks its workers twice a second whether they are done."""


class Trainer(TorchTrainer):
    """Without the actor for Ray Data, which no training here reads."""

    unneeded: tuple[str, ...] = ("DatasetsCallback",)

    def _create_default_callbacks(self) -> Any:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]  # the V2 trainer has it
        return [callback for callback in callbacks if type(callback).__name__ not in self.unneeded]


class AloneTrainer(Trainer):
    """For a cluster that ends with this process: its controller, its workers and their barrier alone."""

    # Placement groups do not outlive such a cluster.
    unneeded = (*Trainer.unneeded, "PlacementGroupCleanerCallback")

    def _initialize_and_run_controller(self, **given: Any) -> Any:
        scaling: Any = self.scaling_config
        given["scaling_policy"] = AlonePolicy(scaling)
        with _environment():
            return super()._initialize_and_run_controller(**given)  # type: ignore[misc]


class AlonePolicy(FixedScalingPolicy):
    """So many workers, asked of no autoscaler: there is nothing that could grow."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Called by Ray; registers nothing."""

    def _maybe_send_resource_request(self) -> None:
        """Called by Ray before every decision."""


@contextmanager
def _environment() -> Iterator[None]:
    """The settings that Ray copies to its controller; what the user has set stays."""
    added = {name: value for name, value in ALONE.items() if name not in os.environ}
    os.environ |= added
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
