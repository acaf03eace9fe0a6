"""Workers for a sweep's jobs: this process, several processes of this machine, or tasks of a Ray cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from components.engines.ray.pool import cluster_address, map_tasks, task_threads
from pipelines.sweeps.jobs import EvaluationJob, JobResult, evaluate
from vim_core.config import RunConfig

TERMINATE_S = 5.0
"""Seconds that a process may take to end before it is killed."""


def results(jobs: Sequence[EvaluationJob], run: RunConfig, parallel: int) -> Generator[JobResult, None, None]:
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


class _Worker:
    """A process that waits for jobs; ends with its `with` block."""

    def __init__(self) -> None:
        # forked processes would inherit threads' locks, and MLflow's connection
        context = multiprocessing.get_context("spawn")
        self.jobs, theirs = context.Pipe()
        self.alive = True
        self.process: SpawnProcess = context.Process(target=_serve, args=(theirs,), name="sweep", daemon=False)
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


def _serve(jobs: Connection) -> None:
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
            jobs.send(evaluate(jobs.recv()))
