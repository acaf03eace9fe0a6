"""Independent jobs as tasks of a Ray cluster, spread over its nodes; those of a lost node are done again elsewhere."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from vim_core.config import RunConfig

J = TypeVar("J")

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray for the process that a job starts."""


def cluster_address(run: RunConfig) -> str:
    """The cluster to work on: `run.ray_address`, inside a Ray job that job's; '' for none."""
    return run.ray_address or ("auto" if JOB_VARIABLE in os.environ else "")


def task_threads(run: RunConfig, parallel: int) -> int:
    """Threads of each task: `run.threads`, or the cores of the smallest node divided among the tasks it will have.

    Raises:
        VimError: no cluster answers.
    """
    import ray

    from components.engines.ray.session import connect

    connect(run)
    cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    cores = [count for count in cores if count] or [1]
    return run.threads or max(1, min(cores) // math.ceil(parallel / len(cores)))


def map_tasks(
    perform: Callable[[J], Any], jobs: Sequence[J], run: RunConfig, parallel: int
) -> Iterator[tuple[int, Any]]:
    """The index of each job with `perform(job)`, as they finish; an exception takes the place of a lost result.

    Args:
        perform: a function of a module that every node can import.
        jobs: in the order in which they are started.
        run: names the cluster, the threads, and how often a job may lose its node (`run.restarts`).
        parallel: how many run at once.

    Raises:
        VimError: no cluster answers.
    """
    import ray

    from components.engines.ray.pool import actor_resources
    from components.engines.ray.session import connect

    connect(run)
    resources = actor_resources(run.device, max(1, run.threads))
    task = ray.remote(max_retries=run.restarts, scheduling_strategy="SPREAD", **resources)(perform)
    left = list(enumerate(jobs))[::-1]
    running: dict[Any, int] = {}
    try:
        while left or running:
            while left and len(running) < parallel:
                index, job = left.pop()
                running[task.remote(job)] = index
            (ready,), _ = ray.wait(list(running), num_returns=1)
            index = running.pop(ready)
            try:
                result = ray.get(ready)
            except ray.exceptions.RayError as error:
                result = RuntimeError(f"lost with its node more than run.restarts times, or not started: {error}")
            yield index, result
    finally:
        for unfinished in running:
            ray.cancel(unfinished, force=True)
