"""MLflow runs of a sweep: a parent, a child a point, nothing doubled and nothing lost; in a real MLflow store."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from components.tracking.parent import PARENT, ParentTracker
from components.tracking.sweep import PointRecord, SweepTracker
from tests.unit.components.tracking.conftest import Client
from vim_core.config import PipelineConfig, RunConfig

pytestmark = pytest.mark.usefixtures("patient")

POINT = PointRecord(
    key="k1",
    number=1,
    label="guidance 1.5",
    settings={"sample.guidance": 1.5},
    figures={"fd_classifier": 2.5},
    reason="",
    artifacts={"score": "f1"},
    made="2026-01-01T00:00:00+00:00",
)
FAILED = dataclasses.replace(POINT, key="k2", number=2, label="guidance 9", figures={}, reason="score: no", made="")


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    return PipelineConfig(preset="fake", run=RunConfig(root=str(tmp_path)))


def swept(config: PipelineConfig, client: Client, points: list[PointRecord], identity: str = "s1") -> SweepTracker:
    settings = {"settings": {}, "grid": {"sample.guidance": [1.5, 9.0]}}
    tracker = SweepTracker(config, "trial", identity, settings, {"dagster/run_id": "d"}, client.link())
    tracker.start()
    for point in points:
        tracker.point(point)
    tracker.log_figures({"points": float(len(points))})
    tracker.close("FINISHED")
    return tracker


def test_a_parent_and_a_child_for_each_point(config: PipelineConfig, client: Client) -> None:
    tracker = swept(config, client, [POINT, FAILED])
    (parent,), (done, failed) = client.runs("sweep"), client.runs("point")
    assert parent.info.run_name == "sweep trial"
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["vim.sweep"] == "trial"
    assert parent.data.tags["vim.fingerprint"] == "s1"
    assert parent.data.tags["dagster/run_id"] == "d"
    assert parent.data.params == {"grid.sample.guidance": "[1.5, 9.0]"}
    assert {run.data.tags[PARENT] for run in (done, failed)} == {parent.info.run_id}
    assert (done.info.run_name, done.info.status) == ("guidance 1.5", "FINISHED")
    assert done.data.params == {"sample.guidance": "1.5"}
    assert client.points(done.info.run_id, "fd_classifier") == [(0, 2.5)]
    assert failed.info.status == "FAILED"
    assert failed.data.tags["vim.reason"] == "score: no"
    assert tracker.run_of("k1") == done.info.run_id
    assert tracker.record()["run_id"] == parent.info.run_id


def test_the_same_sweep_again_doubles_nothing(config: PipelineConfig, client: Client) -> None:
    swept(config, client, [POINT, FAILED])
    better = dataclasses.replace(FAILED, reason="", figures={"fd_classifier": 3.0})
    again = swept(config, client, [POINT, better])
    (parent,), (done, other) = client.runs("sweep"), client.runs("point")
    assert client.points(done.info.run_id, "fd_classifier") == [(0, 2.5)]
    assert (other.info.status, other.data.tags["vim.reason"]) == ("FINISHED", "")
    assert client.points(other.info.run_id, "fd_classifier") == [(0, 3.0)]
    assert client.points(parent.info.run_id, "points") == [(0, 2.0)]
    assert again.run_of("k1") == done.info.run_id


def test_another_sweep_has_a_run_of_its_own(config: PipelineConfig, client: Client) -> None:
    swept(config, client, [POINT])
    swept(config, client, [POINT], "s2")
    assert len(client.runs("sweep")) == len(client.runs("point")) == 2


def test_what_a_dead_server_missed_comes_with_the_next_run(
    config: PipelineConfig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.away = True
    monkeypatch.setattr(ParentTracker, "FLUSH_S", 0.1)
    tracker = swept(config, client, [POINT, FAILED])
    assert (tracker.run_of("k1"), tracker.record()["run_id"]) == ("", "")
    monkeypatch.setattr(ParentTracker, "FLUSH_S", 60.0)
    client.away = False
    swept(config, client, [POINT, FAILED])
    assert len(client.runs("sweep")) == 1
    assert [run.info.status for run in client.runs("point")] == ["FINISHED", "FAILED"]


def test_a_point_half_delivered_is_sent_again_and_one_of_an_earlier_version_is_not(
    config: PipelineConfig, client: Client
) -> None:
    swept(config, client, [POINT])
    (run,) = client.runs("point")
    client.delete_tag(run.info.run_id, "mlflow.vim.result")
    client.set_terminated(run.info.run_id, "KILLED")
    client.set_tag(run.info.run_id, "vim.result", POINT.result)
    swept(config, client, [POINT])
    assert client.get_run(run.info.run_id).info.status == "KILLED"
    client.delete_tag(run.info.run_id, "vim.result")
    swept(config, client, [POINT])
    (again,) = client.runs("point")
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")
    assert client.points(run.info.run_id, "fd_classifier") == [(0, 2.5)]
