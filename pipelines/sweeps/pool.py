"""Cells at work: in this process, in several of this machine, or as tasks of a Ray cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from components.engines.ray import tasks
from pipelines.sweeps.cells import Done, Job, die_with, perform
from vim_core.config import RunConfig

END_S = 5.0
"""How long a process may take to end before it is killed."""


def results(jobs: Sequence[Job], run: RunConfig, parallel: int) -> Generator[Done, None, None]:
    """What became of each job, as they are finished, `parallel` at once. Stops all work when it is closed.

    Raises:
        VimError: no Ray cluster answers at `run.ray_address`.
    """
    address = tasks.cluster_address(run)
    if address:
        yield from _on_ray(jobs, dataclasses.replace(run, ray_address=address), parallel)
    elif parallel == 1 or len(jobs) == 1:
        yield from map(perform, jobs)
    else:
        yield from _in_processes(jobs, min(parallel, len(jobs)))


def _on_ray(jobs: Sequence[Job], run: RunConfig, parallel: int) -> Iterator[Done]:
    run = dataclasses.replace(run, threads=tasks.task_threads(run, parallel))
    there = [_there(job, run.threads) for job in jobs]
    for number, result in tasks.map_tasks(perform, there, run, parallel):
        yield result if isinstance(result, Done) else Done(jobs[number].number, {}, {}, reason=str(result))


def _there(job: Job, threads: int) -> Job:
    """The job as a task does it: with one worker, the task itself is the worker and needs no pool of its own."""
    own = {} if job.config.run.workers > 1 else {"ray_address": ""}
    return dataclasses.replace(job, config=_placed(job, threads=threads, **own))


def _placed(job: Job, **run: Any) -> Any:
    return dataclasses.replace(job.config, run=dataclasses.replace(job.config.run, **run))


def _in_processes(jobs: Sequence[Job], parallel: int) -> Iterator[Done]:
    """Each process does one job after the other, so that it imports and loads once; a lost one costs its job alone."""
    cores = len(os.sched_getaffinity(0))
    waiting = deque(
        dataclasses.replace(job, config=_placed(job, threads=job.config.run.threads or max(1, cores // parallel)))
        for job in jobs
    )
    with contextlib.ExitStack() as stack:
        busy: dict[Connection, tuple[_Worker, Job]] = {}
        for _ in range(min(parallel, len(waiting))):
            _hand(stack.enter_context(_started()), waiting, busy)
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                worker, job = busy.pop(ready)
                done = worker.result(job)
                if waiting:
                    _hand(worker if worker.alive else stack.enter_context(_started()), waiting, busy)
                yield done


def _hand(worker: _Worker, waiting: deque[Job], busy: dict[Connection, tuple[_Worker, Job]]) -> None:
    job = waiting.popleft()
    worker.ours.send(job)
    busy[worker.ours] = worker, job


class _Worker:
    """A process that waits for jobs."""

    def __init__(self) -> None:
        # Forked processes would inherit threads' locks, and MLflow's connection.
        context = multiprocessing.get_context("spawn")
        self.ours, theirs = context.Pipe()
        self.alive = True
        self.process: SpawnProcess = context.Process(target=_work, args=(theirs,), name="sweep", daemon=False)
        self.process.start()
        theirs.close()

    def result(self, job: Job) -> Done:
        """What it sent, or that it is gone."""
        try:
            done = self.ours.recv()
        except (EOFError, OSError):
            self.alive = False
            self.process.join()
            code = self.process.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"status {code}"
            return Done(job.number, {}, {}, reason=f"its process ended by {how}, perhaps for lack of memory")
        assert isinstance(done, Done)
        return done


@contextlib.contextmanager
def _started() -> Iterator[_Worker]:
    worker = _Worker()
    try:
        yield worker
    finally:
        worker.ours.close()
        worker.process.terminate()
        worker.process.join(END_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _work(jobs: Connection) -> None:
    """The process: jobs in, results out, until nobody asks any more."""
    # Ctrl-C reaches every process of the terminal; the first one decides what becomes of this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with(multiprocessing.parent_process())
    with contextlib.suppress(EOFError):
        while True:
            jobs.send(perform(jobs.recv()))
