"""Ray's Jobs API: what its answers mean, what is asked of it, and how faults are told."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.jobs import ray_jobs
from pipelines.jobs.api import FAILED, LOST, RUNNING, STOPPED, SUCCEEDED
from pipelines.jobs.profile import Cluster
from vim_core.errors import ConfigError, VimError

NAME = "vim-smoke-0123456789ab-a1"
CLUSTER = Cluster(name="mine", address="http://127.0.0.1:8265", python="/env/bin/python", env={"A": "b"})


def details(name: str = NAME, status: str = "RUNNING", **fields: Any) -> SimpleNamespace:
    empty = {"message": "Job is running.", "error_type": None, "driver_exit_code": None, "end_time": None}
    fields = {"driver_agent_http_address": "http://10.0.0.7:52365", "start_time": 5000, **empty, **fields}
    return SimpleNamespace(submission_id=name, status=SimpleNamespace(value=status), **fields)


class FakeClient:
    """Ray's client: `listed` are its jobs, `chunks` its logs; submitting raises `refusal` where one is set."""

    def __init__(self) -> None:
        self.listed: list[Any] = []
        self.chunks: list[str] = []
        self.refusal: Exception | None = None
        self.asked: list[dict[str, Any]] = []
        self.stopped: list[str] = []

    def submit_job(self, **asked: Any) -> str:
        self.asked.append(asked)
        if self.refusal:
            raise self.refusal
        return str(asked["submission_id"])

    def list_jobs(self) -> list[Any]:
        return self.listed

    def stop_job(self, name: str) -> None:
        self.stopped.append(name)
        self.listed = [details(status="STOPPED")]

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        for chunk in self.chunks:
            yield chunk


def backend(cluster: Cluster = CLUSTER) -> tuple[ray_jobs.RayJobsBackend, FakeClient]:
    jobs, client = ray_jobs.RayJobsBackend(cluster), FakeClient()
    jobs._client = client
    return jobs, client


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"status": "RUNNING"}, RUNNING),
        ({"status": "SUCCEEDED", "driver_exit_code": 0}, SUCCEEDED),
        ({"status": "STOPPED"}, STOPPED),
        ({"status": "FAILED", "driver_exit_code": 1, "error_type": "JOB_ENTRYPOINT_COMMAND_ERROR"}, FAILED),
        ({"status": "FAILED", "error_type": "RUNTIME_ENV_SETUP_FAILURE"}, FAILED),
        ({"status": "FAILED", "driver_exit_code": 137, "error_type": "JOB_ENTRYPOINT_COMMAND_ERROR"}, LOST),
        ({"status": "FAILED", "driver_exit_code": -9, "error_type": "JOB_ENTRYPOINT_COMMAND_ERROR"}, LOST),
        ({"status": "FAILED", "error_type": "JOB_SUPERVISOR_ACTOR_DIED"}, LOST),
    ],
    ids=str,
)
def test_a_lost_driver_is_told_from_one_that_failed(fields: dict[str, Any], status: str) -> None:
    jobs, client = backend()
    client.listed = [details(**fields)]
    state = jobs.state(NAME)
    assert state is not None
    assert (state.status, state.node, state.started) == (status, "10.0.0.7", 5.0)


def test_a_failures_message_is_its_exit_status_and_not_the_log_again() -> None:
    jobs, client = backend()
    text = (
        "Job entrypoint command failed with exit code 1, last available logs (truncated to 20,000 chars):\nmany lines"
    )
    client.listed = [details(status="FAILED", driver_exit_code=1, message=text)]
    assert jobs.jobs()[0].message == "exit status 1"
    client.listed = [details(status="FAILED", message=text)]
    assert jobs.jobs()[0].message == "Job entrypoint command failed with exit code 1"


def test_jobs_of_others_are_not_listed_and_the_newest_is_first() -> None:
    jobs, client = backend()
    newer = "vim-digits-0123456789ab-a2"
    client.listed = [details(), details(newer, start_time=9000), details("raysubmit_x"), details(None)]  # type: ignore[arg-type]
    assert [state.job_id for state in jobs.jobs()] == [newer, NAME]
    assert jobs.state("vim-other-0123456789ab-a1") is None


def test_what_is_submitted() -> None:
    jobs, client = backend()
    assert jobs.submit(NAME, "/root of mine/spec.json")
    (asked,) = client.asked
    assert asked["submission_id"] == NAME
    assert asked["runtime_env"] == {"env_vars": {"A": "b"}}
    assert asked["entrypoint"] == (
        "unset OMP_NUM_THREADS; exec /env/bin/python -m pipelines.cli job '/root of mine/spec.json'"
    )
    assert "entrypoint_num_cpus" not in asked, "on the head, which a lost worker leaves alone"
    own = Cluster(name="mine", address="http://h:1", env={"OMP_NUM_THREADS": "3"})
    assert ray_jobs.entrypoint(own, "gs://b/spec.json") == "python -m pipelines.cli job gs://b/spec.json"


def test_a_name_that_is_taken_is_no_fault_and_anything_else_is() -> None:
    jobs, client = backend()
    client.refusal = RuntimeError("Request failed with status code 500:\nJob with submission_id … already exists")
    client.listed = [details()]
    assert not jobs.submit(NAME, "/spec.json")
    client.listed = []
    with pytest.raises(VimError, match=r"cluster mine at http://127\.0\.0\.1:8265: Job with submission_id"):
        jobs.submit(NAME, "/spec.json")


def test_lines_are_whole_however_they_come() -> None:
    jobs, client = backend()
    client.chunks = ["one\ntw", "o\n", "\nthree"]
    assert list(jobs.follow(NAME)) == ["one", "two", "", "three"]


def test_ctrl_c_ends_a_log_that_is_silent() -> None:
    jobs, client = backend()
    closed = []

    async def tail(name: str) -> AsyncIterator[str]:
        try:
            yield "one\n"
            await asyncio.sleep(60)
        finally:
            closed.append(name)

    client.tail_job_logs = tail  # type: ignore[method-assign]
    lines = jobs.follow(NAME)
    assert next(lines) == "one"
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        next(lines)
    assert closed == [NAME]


def test_stopping_waits_for_the_end() -> None:
    jobs, client = backend()
    client.listed = [details()]
    jobs.stop(NAME)
    assert client.stopped == [NAME]
    state = jobs.state(NAME)
    assert state is not None
    assert state.finished


def test_the_token_is_read_at_use_and_its_absence_named(tmp_path: Path) -> None:
    token = tmp_path / "token"
    cluster = Cluster(name="mine", address="http://127.0.0.1:1", token_file=str(token))
    with pytest.raises(ConfigError, match=r"cluster mine: token_file='.*token': No such file"):
        ray_jobs.headers(cluster)
    token.write_text("secret\n")
    assert ray_jobs.headers(cluster) == {"Authorization": "Bearer secret"}
    assert ray_jobs.headers(Cluster()) == {}


def test_no_address_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="start one with `vimctl cluster up`"):
        ray_jobs.RayJobsBackend(Cluster(name="local"))
    with pytest.raises(ConfigError, match="give the profile an address"):
        ray_jobs.RayJobsBackend(Cluster(name="mine"))


def test_a_refused_token_and_a_dead_address_are_told_apart() -> None:
    jobs, client = backend(Cluster(name="mine", address="http://h:1", token_file="/t"))

    class AuthenticationError(Exception):
        pass

    def refuse() -> list[Any]:
        raise AuthenticationError("403")

    client.list_jobs = refuse  # type: ignore[method-assign]
    with pytest.raises(VimError, match="http://h:1 takes no token from /t"):
        jobs.jobs()

    def away() -> list[Any]:
        raise ConnectionError("refused")

    client.list_jobs = away  # type: ignore[method-assign]
    with pytest.raises(VimError, match=r"no Ray cluster answers at http://h:1 \(refused\)"):
        jobs.jobs()
