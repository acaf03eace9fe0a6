"""Sending a job to a cluster, or attaching to the one that runs there already, and following it to its end."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator

from pipelines.jobs import specs
from pipelines.jobs.api import LOST, PENDING, SUCCEEDED, Backend, JobSpec, JobState
from pipelines.jobs.profile import Cluster
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError, VimError
from vim_core.storage import io

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0
LOOK_S = 1.0
QUIET_S = 3.0
Say = Callable[[str], None]
Sleep = Callable[[float], None]


def backend(cluster: Cluster) -> Backend:
    """The cluster behind a profile. Raises `VimError` where what it needs is not installed or not running."""
    if cluster.kind == "kubernetes":
        from pipelines.jobs.kubernetes import KubernetesBackend

        made: Backend = KubernetesBackend(cluster)
        return made
    from pipelines.jobs.ray_jobs import RayJobs

    return RayJobs(cluster)


def placed(cluster: Cluster, config: PipelineConfig, explicit: Collection[str] = ()) -> PipelineConfig:
    """The settings as the cluster wants them, with a root that submitter and nodes reach.

    `explicit` are the fields of `run` that a person gave for this job: they count more than the profile's.

    Raises:
        ConfigError: neither the profile nor the settings name such a root.
    """
    run = dataclasses.replace(cluster.place(config.run), **{name: getattr(config.run, name) for name in explicit})
    if io.is_local(run.root) and (not cluster.root or "root" in explicit):
        if not cluster.here:
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
    """Send the job, or attach to the one of the same name that is there, and follow its log to the end.

    A job that was lost with its node is sent again up to `retries` times, after pauses that grow; one that failed by
    itself is not. With `attach` false this returns once the job is there. The last state tells how it went.

    Raises:
        VimError: the cluster does not answer, however often it is asked (`retries`); the job may go on.
    """
    chosen = jobs or backend(cluster)
    root, base = specs.config_of(spec).run.root, specs.base(spec)
    lost = 0
    while True:
        state = _begin(chosen, spec, root, base, say)
        if not attach:
            return state
        state = follow(chosen, state.identity, say, cluster.retries, sleep)
        if state.status != LOST or lost == cluster.retries:
            return state
        say(f"{state.identity} was lost: {state.message}; sent again in {pause(lost):.0f} s")
        sleep(pause(lost))
        lost += 1


def follow(jobs: Backend, identity: str, say: Say, retries: int, sleep: Sleep = time.sleep) -> JobState:
    """Say every line of a job's log once, until it is over; a cluster that is away for a while is asked again.

    Raises:
        VimError: it did not answer `retries` + 1 times in a row.
    """
    said = away = 0
    while True:
        try:
            for number, line in enumerate(jobs.follow(identity)):
                if number >= said:
                    say(line)
                    said, away = number + 1, 0
            state = jobs.state(identity)
        except VimError as error:
            if away == retries:
                raise
            say(f"{error}; asking again in {pause(away):.0f} s")
            sleep(pause(away))
            away += 1
            continue
        if state is None:
            return JobState(identity, LOST, "the cluster knows nothing of it any more")
        if state.over:
            return state
        sleep(LOOK_S)


def so_far(jobs: Backend, identity: str, quiet_s: float = QUIET_S) -> Iterator[str]:
    """The lines of a job's log that there are now: until it is over, or no new one comes for `quiet_s` seconds."""
    lines: queue.Queue[str | VimError | None] = queue.Queue()

    def read() -> None:
        try:
            for line in jobs.follow(identity):
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


def pause(tried: int) -> float:
    """Seconds to wait after so many attempts in vain: twice as long each time, up to five minutes."""
    return min(FIRST_PAUSE_S * 2.0 ** min(tried, 30), LONGEST_PAUSE_S)


def _begin(jobs: Backend, spec: JobSpec, root: str, base: str, say: Say) -> JobState:
    """Send the next attempt, unless one is there that is not over."""
    known = {state.identity: state for state in jobs.jobs()}
    tried = specs.attempts(known, base)
    if tried and not (newest := known[tried[max(tried)]]).over:
        say(f"{newest.identity} is {newest.status} already; attaching to it")
        return newest
    identity = _store(root, base, spec, max(tried, default=0))
    if jobs.submit(identity, specs.uri(root, identity)):
        say(f"sent {identity}")
    else:
        say(f"{identity} was sent by somebody else a moment ago; attaching to it")
    return jobs.state(identity) or JobState(identity, PENDING)


def _store(root: str, base: str, spec: JobSpec, over: int) -> str:
    """The name of the first attempt after `over` whose stored spec is this one.

    One that is stored and unknown to the cluster was never sent, is being sent just now by another submitter, or was
    forgotten by a cluster that started anew: sending it under its own name is right in each case.
    """
    number = max([over + 1, *specs.attempts(specs.stored(root), base)])
    while not specs.write(root, specs.identity(base, number), spec):
        number += 1
    return specs.identity(base, number)


def succeeded(state: JobState) -> bool:
    """Whether the job did what it was sent for."""
    return state.status == SUCCEEDED
