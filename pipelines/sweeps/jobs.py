"""Jobs that evaluate a sweep's points, one for each set of candidates: in this process, in several, or on Ray."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from components.artifacts import execute, store
from components.artifacts.execute import ArtifactCache, Reporting
from components.contract import code, settings
from components.contract.api import Artifact
from components.engines.ray.pool import cluster_address, map_tasks, task_threads
from components.tracking.progress import LineProgress
from components.tracking.tracker import untracked
from components.tradeoff.grid import ACCEPTANCE, Point, candidate_count, share_candidates
from pipelines.sweeps.spec import BLOCK, CHECKPOINT, SPECIAL, Sweep
from vim_core.config import PipelineConfig, RunConfig
from vim_core.errors import CodeError, ConfigError, VimError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationJob:
    """Points with one set of candidates: settings, components to run in order, and the artifacts before them.

    `prior` is the checkpoint that takes the place of the trained prior, if the points name one.
    """

    number: int
    config: PipelineConfig
    components: tuple[str, ...]
    points: tuple[Point, ...]
    prior: Artifact | None = None
    upstream: ArtifactCache = field(default_factory=dict)

    def known(self) -> ArtifactCache:
        """A new dictionary of the artifacts before this job, by component."""
        return self.upstream | ({} if self.prior is None else {"prior": self.prior})


@dataclass(frozen=True)
class JobResult:
    """The artifacts of a job by component, and the reason where not all could be made."""

    number: int
    artifacts: dict[str, Artifact]
    reason: str = ""


def build(
    sweep: Sweep, points: Sequence[Point], config: PipelineConfig, classes: int, priors: Mapping[int, Artifact],
    upstream: ArtifactCache,
) -> list[EvaluationJob]:  # fmt: skip
    """One job for all points that differ in acceptance or block alone.

    Its candidates are as many as the strictest of its rates takes, and no fewer than `sample.count`.

    Args:
        sweep: the sweep's settings.
        points: of `spec.expand`.
        config: the preset's settings.
        classes: number of classes of the images; acceptance counts by class.
        priors: artifacts of the prior's checkpoints by step.
        upstream: artifacts of the components before the points.

    Raises:
        ConfigError: a value does not suit its setting, or the preset lacks a component that a point needs.
    """
    jobs = []
    for number, group in enumerate(share_candidates(points, (ACCEPTANCE, BLOCK))):
        given = group[0].settings
        rates = sorted({float(p.settings[ACCEPTANCE]) for p in group if ACCEPTANCE in p.settings}, reverse=True)
        components = sweep.components(bool(rates))
        for name in components:
            if name not in config.components:
                raise ConfigError(f"{group[0].label}: needs {name}, which is not in the preset {config.preset}")
        changed = settings.with_values(config, {key: value for key, value in given.items() if key not in SPECIAL})
        if rates:
            if not classes:
                raise ConfigError(f"{ACCEPTANCE}={rates}: samples are accepted by class, and the images have none")
            count = max(changed.sample.count, candidate_count(changed.select.count, rates, classes))
            changed = settings.with_values(changed, {"select.rates": rates, "sample.count": count})
        included = [name for name in changed.components if name != "select" or rates]
        changed = dataclasses.replace(changed, components=included)
        prior = priors.get(given.get(CHECKPOINT, -1))
        jobs.append(EvaluationJob(number, changed, tuple(components), tuple(group), prior, upstream))
    return jobs


def find(job: EvaluationJob) -> JobResult | None:
    """The job's result if every artifact exists already; reads manifests alone."""
    known = job.known()
    found = {name: execute.find(name, job.config, known) for name in job.components}
    artifacts = {name: artifact for name, artifact in found.items() if artifact is not None}
    return JobResult(job.number, artifacts) if len(artifacts) == len(found) else None


def evaluate(job: EvaluationJob) -> JobResult:
    """Make the missing artifacts. Raises nothing but interruptions: a failure is the result's `reason`."""
    known = job.known()
    artifacts: dict[str, Artifact] = {}
    # Each point has an MLflow run, and runs of its components would hide it.
    services = Reporting(lambda name: LineProgress(name, lambda text: None), untracked(job.config).component)
    for name in job.components:
        try:
            artifacts[name] = execute.execute(name, job.config, services, cache=known).artifact
        except Exception as error:
            failure = error if isinstance(error, VimError) else store.storage_error(error, job.config.run.root)
            if failure is None:
                log.debug("a point failed", exc_info=error)
            kind = "" if failure is not None else f"{type(error).__name__}: "
            return JobResult(job.number, artifacts, f"{name}: {kind}{' '.join(str(failure or error).split())}")
    return JobResult(job.number, artifacts)


TERMINATE_S = 5.0
"""Seconds that a process may take to end before it is killed."""


def evaluate_all(jobs: Sequence[EvaluationJob], run: RunConfig, parallel: int) -> Generator[JobResult, None, None]:
    """The result of each job as it finishes, `parallel` at once. Stops all work when it is closed.

    Raises:
        VimError: no Ray cluster answers at `run.ray_address`.
    """
    address = cluster_address(run)
    if address:
        yield from _on_ray(jobs, dataclasses.replace(run, ray_address=address), parallel)
    elif parallel == 1 or len(jobs) == 1:
        yield from map(evaluate, jobs)
    else:
        yield from _in_processes(jobs, min(parallel, len(jobs)))


def _on_ray(jobs: Sequence[EvaluationJob], run: RunConfig, parallel: int) -> Iterator[JobResult]:
    run = dataclasses.replace(run, threads=task_threads(run, parallel))
    # with one worker the task itself is the worker and needs no cluster of its own
    local = [{} if job.config.run.workers > 1 else {"ray_address": ""} for job in jobs]
    submitted = [_with_run(job, threads=run.threads, **fields) for job, fields in zip(jobs, local, strict=True)]
    for number, result in map_tasks(evaluate, submitted, run, parallel):
        yield result if isinstance(result, JobResult) else JobResult(jobs[number].number, {}, str(result))


def _with_run(job: EvaluationJob, **fields: Any) -> EvaluationJob:
    """The job with other settings of `run`."""
    run = dataclasses.replace(job.config.run, **fields)
    return dataclasses.replace(job, config=dataclasses.replace(job.config, run=run))


def _in_processes(jobs: Sequence[EvaluationJob], parallel: int) -> Iterator[JobResult]:
    """Each process does one job after the other, so that it imports and loads once; a lost one fails only its job."""
    share = max(1, len(os.sched_getaffinity(0)) // parallel)
    waiting = deque(_with_run(job, threads=job.config.run.threads or share) for job in jobs)
    busy: dict[Connection, tuple[_Worker, EvaluationJob]] = {}
    with contextlib.ExitStack() as stack:

        def assign(worker: _Worker | None = None) -> None:
            """Send the next job to an idle worker, or to a new one."""
            worker, job = worker or stack.enter_context(_Worker()), waiting.popleft()
            worker.jobs.send(job)
            busy[worker.jobs] = worker, job

        for _ in range(parallel):
            assign()
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                worker, job = busy.pop(ready)
                result = worker.receive(job)
                if waiting:
                    assign(worker if worker.alive else None)
                yield result


def _evaluate_here(job: EvaluationJob, expected: code.Code) -> JobResult:
    """The job's result; a failure where this process runs another code than the sweep."""
    try:
        code.check(expected)
    except CodeError as error:
        return JobResult(job.number, {}, str(error))
    return evaluate(job)


class _Worker:
    """A process that waits for jobs; ends with its `with` block."""

    def __init__(self) -> None:
        # forked processes would inherit threads' locks, and MLflow's connection
        context = multiprocessing.get_context("spawn")
        self.jobs, theirs = context.Pipe()
        self.alive = True
        self.process: SpawnProcess = context.Process(
            target=_serve, args=(theirs, code.current()), name="sweep", daemon=False
        )
        self.process.start()
        theirs.close()

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.jobs.close()
        self.process.terminate()
        self.process.join(TERMINATE_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def receive(self, job: EvaluationJob) -> JobResult:
        """The job's result, or a failure where the process has ended."""
        try:
            result = self.jobs.recv()
        except (EOFError, OSError):
            self.alive = False
            self.process.join()
            code = self.process.exitcode or 0
            status = f"signal {-code}" if code < 0 else f"status {code}"
            return JobResult(job.number, {}, f"its process ended by {status}, perhaps for lack of memory")
        assert isinstance(result, JobResult)
        return result


def _serve(jobs: Connection, expected: code.Code) -> None:
    """A worker process: jobs in, results out, until the connection closes or the parent process ends."""
    # Ctrl-C reaches every process of the terminal; the parent ends this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, name="parent", daemon=True).start()
    with contextlib.suppress(EOFError):
        while True:
            job = jobs.recv()
            jobs.send(_evaluate_here(job, expected))
