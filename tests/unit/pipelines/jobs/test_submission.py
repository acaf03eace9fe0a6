"""Submitting: one job for one question whoever asks, attaching, retries of lost jobs alone, and what is said."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.contract import settings
from pipelines.jobs import specs, submission
from pipelines.jobs.api import FAILED, LOST, RUNNING, STOPPED, SUCCEEDED, Backend, JobSpec, JobState
from pipelines.jobs.profile import Cluster
from tests.support.common import CONF
from tests.support.fake_cluster import FakeCluster
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError, VimError

CLUSTER = Cluster(name="fake", retries=2)


@functools.cache
def text() -> str:
    return settings.to_yaml(settings.load(str(CONF / "smoke.yaml"), ["run.root=ROOT"]))


def spec_below(root: Path) -> JobSpec:
    return JobSpec("run", "smoke", text().replace("ROOT", str(root)))


def send(jobs: Backend, spec: JobSpec, attach: bool = True) -> tuple[JobState, list[str], list[float]]:
    """The last state, what was said, and the pauses that were made."""
    said: list[str] = []
    slept: list[float] = []
    return submission.submit(CLUSTER, spec, said.append, attach, jobs, slept.append), said, slept


def test_a_job_is_sent_once_and_its_log_is_followed(tmp_path: Path) -> None:
    jobs, spec = FakeCluster(), spec_below(tmp_path)
    state, said, slept = send(jobs, spec)
    assert (state.status, slept) == (SUCCEEDED, [])
    assert said == [f"sent {state.job_id}", "one", "two"]
    ((job_id, uri),) = jobs.sent
    assert job_id == state.job_id == f"{specs.base_id(spec)}-a1"
    assert specs.read(uri) == spec
    assert specs.job_id_of(uri) == job_id


def test_a_second_submitter_attaches(tmp_path: Path) -> None:
    jobs, spec = FakeCluster(), spec_below(tmp_path)
    first, _, _ = send(jobs, spec, attach=False)
    assert first.status == RUNNING
    other = dataclasses.replace(spec, places={"prior": {"workers": 4}}, cluster="elsewhere")
    second, said, _ = send(jobs, other)
    assert second.job_id == first.job_id
    assert len(jobs.sent) == 1
    assert said == [f"{first.job_id} is running already; attaching to it", "one", "two"]


def test_one_who_is_a_moment_late_attaches_too(tmp_path: Path) -> None:
    """Both have looked before either has sent."""
    jobs, spec = FakeCluster(), spec_below(tmp_path)

    class Late(FakeCluster):
        def jobs(self) -> list[JobState]:
            return []

    first, _, _ = send(jobs, spec, attach=False)
    late = Late(known=jobs.known)
    second, said, _ = send(late, spec)
    assert (second.job_id, late.sent) == (first.job_id, [])
    assert "attaching" in said[0]


def test_lost_jobs_are_sent_again_after_growing_pauses(tmp_path: Path) -> None:
    jobs, spec = FakeCluster([LOST, LOST, SUCCEEDED]), spec_below(tmp_path)
    state, said, slept = send(jobs, spec)
    assert state.status == SUCCEEDED
    assert [job_id[-3:] for job_id, _ in jobs.sent] == ["-a1", "-a2", "-a3"]
    assert slept == [5.0, 10.0]
    assert f"{specs.base_id(spec)}-a1 was lost: its node went; sent again in 5 s" in said
    losing = FakeCluster([LOST])
    assert send(losing, spec_below(tmp_path / "losing"))[0].status == LOST
    assert len(losing.sent) == 1 + CLUSTER.retries


@pytest.mark.parametrize("ending", [FAILED, STOPPED])
def test_failed_and_stopped_jobs_are_not_sent_again(tmp_path: Path, ending: str) -> None:
    jobs, spec = FakeCluster([ending, SUCCEEDED]), spec_below(tmp_path)
    state, _, slept = send(jobs, spec)
    assert (state.status, len(jobs.sent), slept) == (ending, 1, [])
    again, _, _ = send(jobs, spec)
    assert again.job_id.endswith("-a2"), "whoever asks again wants another attempt"
    assert again.status == SUCCEEDED


def test_a_cluster_that_started_anew_gets_the_job_again_under_its_name(tmp_path: Path) -> None:
    jobs, spec = FakeCluster(forgets=True), spec_below(tmp_path)
    state, said, _ = send(jobs, spec)
    assert state.status == SUCCEEDED
    assert [job_id for job_id, _ in jobs.sent] == [state.job_id, state.job_id]
    assert any("knows nothing of it" in line for line in said)


def test_another_place_for_a_forgotten_job_is_another_attempt(tmp_path: Path) -> None:
    spec = spec_below(tmp_path)
    send(FakeCluster(), spec)
    moved = dataclasses.replace(spec, places={"prior": {"workers": 2}})
    state, _, _ = send(FakeCluster(), moved)
    assert state.job_id == f"{specs.base_id(spec)}-a2"
    assert specs.read(specs.uri(str(tmp_path), state.job_id)) == moved


def test_lines_are_said_once_however_often_the_log_breaks_off(tmp_path: Path) -> None:
    jobs = FakeCluster(stalls=2, lines=("one", "two", "three"))
    _, said, slept = send(jobs, spec_below(tmp_path))
    assert said[1:] == ["one", "two", "three"]
    assert slept == [submission.POLL_S] * 2


def test_a_cluster_that_is_away_for_a_while_is_asked_again(tmp_path: Path) -> None:
    spec = spec_below(tmp_path)
    jobs = FakeCluster()
    job_id = send(jobs, spec, attach=False)[0].job_id
    said: list[str] = []
    slept: list[float] = []
    jobs.away = CLUSTER.retries
    assert submission.follow(jobs, job_id, said.append, CLUSTER.retries, slept.append).status == SUCCEEDED
    assert slept == [5.0, 10.0]
    jobs.away = CLUSTER.retries + 1
    with pytest.raises(VimError, match="no Ray cluster answers"):
        submission.follow(jobs, job_id, said.append, CLUSTER.retries, slept.append)


def test_what_there_is_of_a_log_needs_no_end(tmp_path: Path) -> None:
    class Endless(FakeCluster):
        def follow(self, job_id: str) -> Any:
            yield from self.lines
            import threading

            threading.Event().wait(30)

    assert list(submission.read_log(Endless(), "x", quiet_s=0.2)) == ["one", "two"]
    with pytest.raises(VimError, match="no Ray cluster"):
        list(submission.read_log(FakeCluster(away=1), "x"))


@given(st.integers(0, 10_000))
def test_pauses_grow_up_to_five_minutes(tried: int) -> None:
    assert submission.MIN_PAUSE_S <= submission.retry_pause(tried) <= submission.retry_pause(tried + 1)
    assert submission.retry_pause(tried + 1) <= submission.MAX_PAUSE_S


def test_roots_must_be_reached_by_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = PipelineConfig()
    with pytest.raises(ConfigError, match=r"cluster far: run\.root='artifacts' is a folder of this machine"):
        submission.settings_on(Cluster(name="far"), config)
    assert submission.settings_on(Cluster(name="far", root="gs://b/vim"), config).run.root == "gs://b/vim"
    config.run.root = "gs://c/vim"
    assert submission.settings_on(Cluster(name="far"), config).run.root == "gs://c/vim"
    config.run.root = "artifacts"
    assert submission.settings_on(Cluster(name="local"), config).run.root == str(tmp_path / "artifacts")
