"""Which of Ray Train's helpers a training starts."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from components.engines.ray.trainers import ALONE, AlonePolicy, AloneTrainer, Trainer


def made(kind: type[Trainer], folder: str) -> Any:
    run = RunConfig(name="x", storage_path=folder)
    return kind(train_loop_per_worker=lambda: None, scaling_config=ScalingConfig(num_workers=1), run_config=run)


def callbacks(trainer: Any) -> set[str]:
    return {type(callback).__name__ for callback in trainer._create_default_callbacks()}


def test_what_is_left_out_is_what_ray_would_start(root: str) -> None:
    """Should Ray give its helpers other names, they would come back unnoticed."""
    everything = callbacks(DataParallelTrainer(lambda: None))
    for kind, more in ((Trainer, set()), (AloneTrainer, {"PlacementGroupCleanerCallback"})):
        assert everything - callbacks(made(kind, root)) == {"DatasetsCallback", *more}


def test_alone_asks_no_autoscaler_and_leaves_the_environment(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either would start a Ray cluster here, if it were asked."""
    seen: dict[str, Any] = {}

    def run(self: Any, **given: Any) -> None:
        seen.update(given, environment={name: os.environ.get(name) for name in ALONE})

    monkeypatch.setattr(DataParallelTrainer, "_initialize_and_run_controller", run)
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "7")
    made(AloneTrainer, root)._initialize_and_run_controller(scaling_policy=None, failure_policy="kept")
    policy = seen["scaling_policy"]
    assert isinstance(policy, AlonePolicy)
    assert policy.make_decision_for_non_running_worker_group().num_workers == 1  # type: ignore[attr-defined]
    policy.make_decision_for_running_worker_group(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    policy.after_controller_start(SimpleNamespace())
    policy.before_controller_abort()  # type: ignore[no-untyped-call]
    assert seen["failure_policy"] == "kept"
    assert seen["environment"] == {**ALONE, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "7"}
    assert "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER" not in os.environ
