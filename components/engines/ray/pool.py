"""A pool of Ray actors that take jobs one at a time; a slow actor delays no other, a lost one is restarted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from components.contract.api import Context
from components.engines.ray.session import interruptible
from vim_core.errors import VimError

J = TypeVar("J")


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

    remote = ray.remote(max_restarts=ctx.run.restarts, max_task_retries=ctx.run.restarts, **resources)(kind)
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
                raise VimError(
                    f"{ctx.name}: an actor was lost more than run.restarts={ctx.run.restarts} times"
                ) from error
            yield job, result
    finally:
        for actor in actors:
            ray.kill(actor)
