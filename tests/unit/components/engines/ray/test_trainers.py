"""The helpers of Ray Train that a training starts."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from components.engines.ray.trainers import SINGLE_NODE_ENV, LeanTrainer, NoAutoscalerPolicy, SingleNodeTrainer


def make_trainer(kind: type[LeanTrainer], folder: str) -> Any:
    run = RunConfig(name="x", storage_path=folder)
    return kind(train_loop_per_worker=lambda: None, scaling_config=ScalingConfig(num_workers=1), run_config=run)


def callbacks(trainer: Any) -> set[str]:
    return {type(callback).__name__ for callback in trainer._create_default_callbacks()}


def test_the_callbacks_left_out_are_those_that_ray_would_start(root: str) -> None:
    """If Ray renamed its helpers, they would come back unnoticed."""
    everything = callbacks(DataParallelTrainer(lambda: None))
    for kind, extra in ((LeanTrainer, set()), (SingleNodeTrainer, {"PlacementGroupCleanerCallback"})):
        assert everything - callbacks(make_trainer(kind, root)) == {"DatasetsCallback", *extra}


def test_a_single_node_asks_no_autoscaler_and_restores_variables(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request to the autoscaler would start a Ray cluster here."""
    seen: dict[str, Any] = {}

    def run(self: Any, **given: Any) -> None:
        seen.update(given, environment={name: os.environ.get(name) for name in SINGLE_NODE_ENV})

    monkeypatch.setattr(DataParallelTrainer, "_initialize_and_run_controller", run)
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "7")
    make_trainer(SingleNodeTrainer, root)._initialize_and_run_controller(scaling_policy=None, failure_policy="kept")
    policy = seen["scaling_policy"]
    assert isinstance(policy, NoAutoscalerPolicy)
    assert policy.make_decision_for_non_running_worker_group().num_workers == 1  # type: ignore[attr-defined]
    policy.make_decision_for_running_worker_group(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    policy.after_controller_start(SimpleNamespace())
    policy.before_controller_abort()  # type: ignore[no-untyped-call]
    assert seen["failure_policy"] == "kept"
    assert seen["environment"] == {**SINGLE_NODE_ENV, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "7"}
    assert "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER" not in os.environ
