"""MLflow runs of a sweep: a parent, a child a point, nothing doubled and nothing lost; the client lives in memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from components.tracking import sweep
from components.tracking.link import Link
from components.tracking.sweep import PointRecord, open_sweep
from components.tracking.tracker import PARENT
from tests.unit.components.tracking.test_tracker import Client as Plain
from tests.unit.components.tracking.test_tracker import entities as entities
from vim_core.config import PipelineConfig, RunConfig

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


class Client(Plain):
    """With pages."""

    def search_runs(
        self, experiments: list[str], query: str, max_results: int = 100, order_by: Any = (), page_token: Any = None
    ) -> list[Any]:
        return super().search_runs(experiments, query, max_results, order_by)


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    return PipelineConfig(preset="fake", run=RunConfig(root=str(tmp_path)))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "FLUSH_S", 0.5)
    monkeypatch.setattr(sweep, "SETTLE_S", 0.5)


def swept(config: PipelineConfig, client: Client, points: list[PointRecord], identity: str = "s1") -> Any:
    link = Link("memory", lambda uri: client, rest_s=0.0)
    made = open_sweep(
        config, "trial", identity, {"grid": {"sample.guidance": [1.5, 9.0]}}, {"dagster/run_id": "d"}, link
    )
    for point in points:
        made.point(point)
    made.close("FINISHED", {"points": float(len(points))})
    return made


def kinds(client: Client, kind: str) -> list[Any]:
    return [run for run in client.runs.values() if run.data.tags["vim.kind"] == kind]


def test_a_parent_and_a_child_for_each_point(config: PipelineConfig, client: Client) -> None:
    made = swept(config, client, [POINT, FAILED])
    (parent,), points = kinds(client, "sweep"), kinds(client, "point")
    assert parent.name == "sweep trial"
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["vim.sweep"] == "trial"
    assert parent.data.tags["vim.fingerprint"] == "s1"
    assert parent.data.tags["dagster/run_id"] == "d"
    assert parent.data.params == {"grid.sample.guidance": "[1.5, 9.0]"}
    assert {run.data.tags[PARENT] for run in points} == {parent.info.run_id}
    done, failed = points
    assert (done.name, done.info.status) == ("guidance 1.5", "FINISHED")
    assert done.data.params == {"sample.guidance": "1.5"}
    assert done.data.points == [("fd_classifier", 0, 2.5)]
    assert failed.info.status == "FAILED"
    assert failed.data.tags["vim.reason"] == "score: no"
    assert made.run_of("k1") == done.info.run_id
    assert made.record()["run_id"] == parent.info.run_id


def test_the_same_sweep_again_doubles_nothing(config: PipelineConfig, client: Client) -> None:
    swept(config, client, [POINT, FAILED])
    better = dataclasses.replace(FAILED, reason="", figures={"fd_classifier": 3.0})
    again = swept(config, client, [POINT, better])
    assert len(kinds(client, "sweep")) == 1
    done, other = kinds(client, "point")
    assert done.data.points == [("fd_classifier", 0, 2.5)]
    assert (other.info.status, other.data.tags["vim.reason"]) == ("FINISHED", "")
    assert other.data.points == [("fd_classifier", 0, 3.0)]
    assert kinds(client, "sweep")[0].data.points == [("points", 0, 2.0)]
    assert again.run_of("k1") == done.info.run_id


def test_another_sweep_has_a_run_of_its_own(config: PipelineConfig, client: Client) -> None:
    swept(config, client, [POINT])
    swept(config, client, [POINT], "s2")
    assert len(kinds(client, "sweep")) == len(kinds(client, "point")) == 2


def test_what_a_dead_server_missed_comes_with_the_next_run(config: PipelineConfig, client: Client) -> None:
    client.away = True
    made = swept(config, client, [POINT, FAILED])
    assert (made.run_of("k1"), made.record()["run_id"]) == ("", "")
    client.away = False
    swept(config, client, [POINT, FAILED])
    assert len(kinds(client, "sweep")) == 1
    assert [run.info.status for run in kinds(client, "point")] == ["FINISHED", "FAILED"]


def test_a_point_half_delivered_is_sent_again(config: PipelineConfig, client: Client) -> None:
    swept(config, client, [POINT])
    (run,) = kinds(client, "point")
    del run.data.tags["vim.result"]
    run.data.points.clear()
    swept(config, client, [POINT])
    assert kinds(client, "point") == [run]
    assert run.data.points == [("fd_classifier", 0, 2.5)]
    assert run.info.status == "FINISHED"


def test_off_is_off(config: PipelineConfig) -> None:
    off = dataclasses.replace(config, run=dataclasses.replace(config.run, tracking_uri="off"))
    made = open_sweep(off, "trial", "s1", {}, {})
    made.point(POINT)
    made.close("FINISHED", {})
    assert made.record() == {}
