"""Jobs on a Ray cluster: on a pool of actors, which keep what they load, or as independent tasks over all nodes.

Actors take one job at a time, so that a slow one delays no other; a lost actor is restarted, and the jobs of a lost
node are done again elsewhere.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from components.contract import code
from components.contract.api import Context
from components.engines.beam import vim_error_in
from vim_core.config import RunConfig
from vim_core.errors import VimError

J = TypeVar("J")

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray for the process that a job starts."""


def actor_resources(device: str, threads: int) -> dict[str, Any]:
    """The resources of one actor, as arguments of `ray.remote`.

    On a TPU host each actor takes one chip: with fewer than all, Ray makes libtpu take each part for a slice of its
    own, so that actors run independent programs instead of one in lockstep.
    """
    resources: dict[str, Any] = {"num_cpus": threads}
    if device == "cuda":
        resources["num_gpus"] = 1
    if device == "xla":
        import ray

        if ray.cluster_resources().get("TPU"):
            resources["resources"] = {"TPU": 1}
    return resources


def map_actors(
    kind: type[Any], plan: Any, method: str, jobs: Iterable[J], ctx: Context, resources: dict[str, Any]
) -> Iterator[tuple[J, Any]]:
    """Each job with the result of `kind(plan).<method>(job)`, as they finish, on `run.workers` actors.

    An actor whose process or host is lost is started again, elsewhere if need be, and does its job again.

    Args:
        kind: the actors' class; every actor has one object of it.
        plan: its argument.
        method: the method that does one job.
        jobs: in the order in which they are handed out; the iterator is read as actors get free.
        ctx: gives the number of actors, and how often each may be lost (`run.restarts`).
        resources: see `actor_resources`.

    Raises:
        VimError: an actor raised it, or one was lost more than `run.restarts` times.
    """
    import ray

    from components.engines.ray.session import interruptible

    checked = type(kind.__name__, (kind,), {"__init__": _checked(kind.__init__)})
    remote: Any = ray.remote(max_restarts=ctx.run.restarts, max_task_retries=ctx.run.restarts, **resources)(checked)
    actors: list[Any] = []
    running: dict[Any, tuple[Any, J]] = {}
    try:
        left = iter(jobs)
        for job in islice(left, ctx.run.workers):
            actors.append(remote.remote(plan))
            running[getattr(actors[-1], method).remote(job)] = (actors[-1], job)
        while running:
            with interruptible():
                (ready,), _ = ray.wait(list(running), num_returns=1)
            actor, job = running.pop(ready)
            for following in islice(left, 1):  # before the result is used, so that the actor works on meanwhile
                running[getattr(actor, method).remote(following)] = (actor, following)
            try:
                result = ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                cause = error.cause
                if isinstance(cause, VimError):
                    raise type(cause)(str(cause)) from error
                raise VimError(f"{ctx.name}: {type(cause).__name__}: {cause}") from error
            except ray.exceptions.RayActorError as error:
                # An error of its constructor is only told as text.
                lost = VimError(f"{ctx.name}: an actor was lost more than run.restarts={ctx.run.restarts} times")
                raise vim_error_in(str(error)) or lost from error
            yield job, result
    finally:
        for actor in actors:
            ray.kill(actor)


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which first raises `CodeError` where its process does not run this one's code."""
    expected = code.current()

    @functools.wraps(function)
    def checked(*arguments: Any) -> Any:
        code.check(expected)
        return function(*arguments)

    return checked


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

    from components.engines.ray.session import connect

    connect(run)
    resources = actor_resources(run.device, max(1, run.threads))
    task = ray.remote(max_retries=run.restarts, scheduling_strategy="SPREAD", **resources)(_checked(perform))
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
