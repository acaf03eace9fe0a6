"""Independent pieces of work as tasks of a Ray cluster, spread over its nodes, a lost node's done again elsewhere."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from vim_core.config import RunConfig

J = TypeVar("J")

IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray for the process that a job starts."""


def address(run: RunConfig) -> str:
    """The cluster to work on: `run.ray_address`, inside a Ray job that job's; '' for none."""
    return run.ray_address or ("auto" if IN_JOB in os.environ else "")


def threads(run: RunConfig, parallel: int) -> int:
    """Threads of each task: `run.threads`, or the cores of the smallest node shared by the tasks it will have.

    Raises:
        VimError: no cluster answers.
    """
    import ray

    from components.engines.ray.session import join

    join(run)
    cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    cores = [count for count in cores if count] or [1]
    return run.threads or max(1, min(cores) // math.ceil(parallel / len(cores)))


def results(perform: Callable[[J], Any], jobs: Sequence[J], run: RunConfig, parallel: int) -> Iterator[tuple[int, Any]]:
    """The place of each job and what `perform(job)` gave, as they are finished; an exception in the place of a result.

    Args:
        perform: a function of a module that every node can import.
        jobs: in the order in which they are started.
        run: says which cluster, with how many threads, and how often a job may lose its node (`run.restarts`).
        parallel: how many at once.

    Raises:
        VimError: no cluster answers.
    """
    import ray

    from components.engines.ray import pool
    from components.engines.ray.session import join

    join(run)
    asked = pool.resources(run.device, max(1, run.threads))
    task = ray.remote(max_retries=run.restarts, scheduling_strategy="SPREAD", **asked)(perform)
    waiting = list(enumerate(jobs))[::-1]
    busy: dict[Any, int] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < parallel:
                number, job = waiting.pop()
                busy[task.remote(job)] = number
            (ready,), _ = ray.wait(list(busy), num_returns=1)
            yield busy.pop(ready), _result(ready)
    finally:
        for open_task in busy:
            ray.cancel(open_task, force=True)


def _result(ready: Any) -> Any:
    import ray

    try:
        return ray.get(ready)
    except ray.exceptions.RayError as error:
        return RuntimeError(f"lost with its node more than run.restarts times, or not started: {error}")
