"""Sends a job to a cluster, or attaches to the one that runs there already, and follows it to its end."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator

from pipelines.jobs import specs
from pipelines.jobs.api import LOST, PENDING, Backend, JobSpec, JobState
from pipelines.jobs.profile import Cluster
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError, VimError
from vim_core.storage import io

MIN_PAUSE_S, MAX_PAUSE_S = 5.0, 300.0
POLL_S = 1.0
SILENCE_S = 3.0
Say = Callable[[str], None]
Sleep = Callable[[float], None]


def backend(cluster: Cluster) -> Backend:
    """The backend of a profile's cluster. Raises `VimError` where its client is not installed or it does not run."""
    if cluster.kind == "kubernetes":
        from pipelines.jobs.kubernetes import KubernetesBackend

        return KubernetesBackend(cluster)
    from pipelines.jobs.ray_jobs import RayJobsBackend

    return RayJobsBackend(cluster)


def settings_on(cluster: Cluster, config: PipelineConfig, explicit: Collection[str] = ()) -> PipelineConfig:
    """The settings with the profile's values of `run`, and a root that submitter and nodes reach.

    `explicit` are the fields of `run` given for this job: they override the profile's.

    Raises:
        ConfigError: neither the profile nor the settings name such a root.
    """
    run = dataclasses.replace(
        cluster.run_settings(config.run), **{name: getattr(config.run, name) for name in explicit}
    )
    if io.is_local(run.root) and (not cluster.root or "root" in explicit):
        if not cluster.is_local:
            raise ConfigError(
                f"cluster {cluster.name}: run.root={run.root!r} is a folder of this machine; give `root` in the "
                "profile, or run.root=gs://…, where every node can read and write"
            )
        run = dataclasses.replace(run, root=io.absolute(run.root))
    return dataclasses.replace(config, run=run)


def submit(
    cluster: Cluster, spec: JobSpec, say: Say, attach: bool = True, jobs: Backend | None = None,
    sleep: Sleep = time.sleep,
) -> JobState:  # fmt: skip
    """Send the job, or attach to the existing one of the same name, and follow its log to the end.

    A job that was lost with its node is sent again up to `retries` times, after growing pauses; one that failed by
    itself is not. With `attach` false this returns once the job exists. Returns the last state.

    Raises:
        VimError: the cluster did not answer `retries` + 1 times in a row; the job may go on.
    """
    jobs = jobs or backend(cluster)
    root, base = specs.config_of(spec).run.root, specs.base_id(spec)
    lost = 0
    while True:
        state = _next_attempt(jobs, spec, root, base, say)
        if not attach:
            return state
        state = follow(jobs, state.job_id, say, cluster.retries, sleep)
        if state.status != LOST or lost == cluster.retries:
            return state
        say(f"{state.job_id} was lost: {state.message}; sent again in {retry_pause(lost):.0f} s")
        sleep(retry_pause(lost))
        lost += 1


def follow(jobs: Backend, job_id: str, say: Say, retries: int, sleep: Sleep = time.sleep) -> JobState:
    """Pass on every line of a job's log once, until it is finished; requests are retried while the cluster is away.

    Raises:
        VimError: it did not answer `retries` + 1 times in a row.
    """
    said = away = 0
    while True:
        try:
            for number, line in enumerate(jobs.follow(job_id)):
                if number >= said:
                    say(line)
                    said, away = number + 1, 0
            state = jobs.state(job_id)
        except VimError as error:
            if away == retries:
                raise
            say(f"{error}; trying again in {retry_pause(away):.0f} s")
            sleep(retry_pause(away))
            away += 1
            continue
        if state is None:
            return JobState(job_id, LOST, "the cluster knows nothing of it any more")
        if state.finished:
            return state
        sleep(POLL_S)


def read_log(jobs: Backend, job_id: str, quiet_s: float = SILENCE_S) -> Iterator[str]:
    """The present lines of a job's log: until it is finished, or no new one comes for `quiet_s` seconds."""
    lines: queue.Queue[str | VimError | None] = queue.Queue()

    def read() -> None:
        try:
            for line in jobs.follow(job_id):
                lines.put(line)
            lines.put(None)
        except VimError as error:
            lines.put(error)

    threading.Thread(target=read, name="log-reader", daemon=True).start()
    with contextlib.suppress(queue.Empty):
        while (line := lines.get(timeout=quiet_s)) is not None:
            if isinstance(line, VimError):
                raise line
            yield line


def retry_pause(tried: int) -> float:
    """Seconds to wait after this number of failures: doubled each time, up to five minutes."""
    return min(MIN_PAUSE_S * 2.0 ** min(tried, 30), MAX_PAUSE_S)


def _next_attempt(jobs: Backend, spec: JobSpec, root: str, base: str, say: Say) -> JobState:
    """Send the next attempt, or return the state of an unfinished one."""
    known = {state.job_id: state for state in jobs.jobs()}
    tried = specs.attempts(known, base)
    if tried and not (newest := known[tried[max(tried)]]).finished:
        say(f"{newest.job_id} is {newest.status} already; attaching to it")
        return newest
    # A stored spec that the cluster does not know was never sent, is being sent by another submitter, or belongs to a
    # cluster that started anew: if it is this one, sending it under its own id is right in each case.
    number = max([max(tried, default=0) + 1, *specs.attempts(specs.list_jobs(root), base)])
    while not specs.write(root, job_id := f"{base}-a{number}", spec):
        number += 1
    if jobs.submit(job_id, specs.uri(root, job_id)):
        say(f"sent {job_id}")
    else:
        say(f"{job_id} was sent by somebody else a moment ago; attaching to it")
    return jobs.state(job_id) or JobState(job_id, PENDING)
