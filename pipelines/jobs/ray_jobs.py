"""Jobs on an existing Ray cluster, by its Jobs API."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shlex
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from components.contract.commands import command
from pipelines.jobs import specs
from pipelines.jobs.api import FAILED, LOST, PENDING, RUNNING, STOPPED, SUCCEEDED, JobState
from pipelines.jobs.profile import Cluster
from vim_core.errors import ConfigError, VimError

STATUS = {"PENDING": PENDING, "RUNNING": RUNNING, "SUCCEEDED": SUCCEEDED, "FAILED": FAILED, "STOPPED": STOPPED}
SUPERVISOR_ERROR = "JOB_SUPERVISOR_ACTOR_"
"""Prefix of Ray's error types for jobs whose supervisor died or found no node; other types are the job's own errors."""
KILLED_STATUSES = (130, 137, 143)
"""Exit statuses of a driver that was ended from outside: interrupted, killed (also out of memory), terminated."""
POLL_S, STOP_S = 0.5, 60.0


class RayJobsBackend:
    """A `Backend` of a profile's Jobs API. The driver of a job runs on the head, so it survives a lost worker node."""

    def __init__(self, cluster: Cluster) -> None:
        if not cluster.address:
            start = (
                f"start one with `{command('cluster', 'up')}`" if cluster.is_local else "give the profile an address"
            )
            raise ConfigError(f"cluster {cluster.name}: it has no address; {start}")
        self._cluster = cluster

    def submit(self, job_id: str, spec_uri: str) -> bool:
        """Variables of the profile's `env` reach the driver and all workers of the job."""
        env = {"env_vars": dict(self._cluster.env)} if self._cluster.env else None
        command = entrypoint(self._cluster, spec_uri)
        try:
            with self._errors():
                self._client.submit_job(entrypoint=command, submission_id=job_id, runtime_env=env)
        except VimError:
            # Ray reports a taken id only in the error text; so look the job up.
            if self.state(job_id) is None:
                raise
            return False
        return True

    def state(self, job_id: str) -> JobState | None:
        return next((state for state in self.jobs() if state.job_id == job_id), None)

    def jobs(self) -> list[JobState]:
        with self._errors():
            listed = self._client.list_jobs()
        ours = [_state(job) for job in listed if specs.JOB_ID.fullmatch(job.submission_id or "")]
        return sorted(ours, key=lambda state: state.started or 0.0, reverse=True)

    def follow(self, job_id: str) -> Iterator[str]:
        with self._errors():
            chunks = self._client.tail_job_logs(job_id)
        rest = ""

        async def read() -> str | None:
            return await anext(chunks, None)

        # On Ctrl-C the runner cancels the read that waits, then closes `chunks`.
        with asyncio.Runner() as runner:
            while True:
                with self._errors():
                    text = runner.run(read())
                if text is None:
                    break
                *lines, rest = (rest + text).split("\n")
                yield from lines
        if rest:
            yield rest

    def stop(self, job_id: str) -> None:
        """Raises `VimError` if the job still runs after a minute."""
        with self._errors():
            self._client.stop_job(job_id)
        deadline = time.monotonic() + STOP_S
        while (state := self.state(job_id)) is not None and not state.finished:
            if time.monotonic() > deadline:
                raise VimError(f"{job_id}: still runs {STOP_S:.0f} s after it was stopped; cancel it again")
            time.sleep(POLL_S)

    def dashboard(self, job_id: str = "") -> str:
        base = self._cluster.address.rstrip("/")
        return f"{base}/#/jobs/{job_id}" if job_id else base

    @cached_property
    def _client(self) -> Any:
        from ray.job_submission import JobSubmissionClient

        # Ray would log a line for each log that ends.
        logging.getLogger("ray").setLevel(logging.ERROR)
        return JobSubmissionClient(self._cluster.address, headers=headers(self._cluster))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise any error of Ray's client as a `VimError` of one line that names the cluster."""
        cluster = self._cluster
        try:
            yield
        except VimError:
            raise
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = f" at {cluster.address}: {lines[-1]}"
            if type(error).__name__ == "AuthenticationError" or getattr(error, "status", 0) in (401, 403):
                what = f"takes no token from {cluster.token_file}" if cluster.token_file else "wants a token"
                reason = f": {cluster.address} {what}; give the cluster's in token_file of the profile"
            elif isinstance(error, OSError):
                start = f"; `{command('cluster', 'up')}` starts it" if cluster.is_local else ""
                reason = f": no Ray cluster answers at {cluster.address} ({lines[0]}){start}"
            raise VimError(f"cluster {cluster.name}{reason}") from error


def entrypoint(cluster: Cluster, spec_uri: str) -> str:
    """The shell command that runs a job."""
    line = shlex.join([cluster.python, "-m", "pipelines.cli", "job", spec_uri])
    # Ray limits the process that starts the driver to one thread, and the driver would inherit that.
    return line if "OMP_NUM_THREADS" in cluster.env else f"unset OMP_NUM_THREADS; exec {line}"


def headers(cluster: Cluster) -> dict[str, str]:
    """The headers with the cluster's token, which is read at each use. Raises `ConfigError` where it cannot be."""
    if not cluster.token_file:
        return {}
    path = Path(cluster.token_file).expanduser()
    try:
        return {"Authorization": f"Bearer {path.read_text(encoding='ascii').strip()}"}
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a token"
        rest = "write the cluster's token there, or leave token_file empty for a cluster without"
        raise ConfigError(f"cluster {cluster.name}: token_file={cluster.token_file!r}: {reason}; {rest}") from error


def _state(job: Any) -> JobState:
    status = STATUS[str(getattr(job.status, "value", job.status))]
    code = job.driver_exit_code
    killed = code is not None and (code < 0 or code in KILLED_STATUSES)
    if status == FAILED and (killed or str(job.error_type or "").startswith(SUPERVISOR_ERROR)):
        status = LOST
    node = urlparse(job.driver_agent_http_address or "").hostname or ""
    message = f"exit status {code}" if code else str(job.message or "").split(", last available logs")[0]
    started, ended = (each / 1000 if each else None for each in (job.start_time, job.end_time))  # from milliseconds
    return JobState(job.submission_id, status, message, node, started, ended)
