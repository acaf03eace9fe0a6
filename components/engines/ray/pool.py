"""A pool of Ray actors that take jobs one at a time; a slow one holds nobody up, a lost one comes back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from components.contract.api import Context
from components.engines.ray.interrupts import interruptible
from vim_core.errors import VimError

J = TypeVar("J")


def resources(device: str, threads: int) -> dict[str, Any]:
    """What each actor asks Ray for.

    One chip of a TPU host an actor: with fewer than all, Ray makes libtpu take each part for a slice of its own, so
    that actors run independent programs instead of one in lockstep.
    """
    asked: dict[str, Any] = {"num_cpus": threads}
    if device == "cuda":
        asked["num_gpus"] = 1
    if device == "xla" and _has_tpus():
        asked["resources"] = {"TPU": 1}
    return asked


def _has_tpus() -> bool:
    import ray

    return bool(ray.cluster_resources().get("TPU"))


def results(
    kind: type[Any], plan: Any, method: str, jobs: Iterable[J], ctx: Context, asked: dict[str, Any]
) -> Iterator[tuple[J, Any]]:
    """Each job with what `kind(plan).<method>(job)` gives, as they are finished, on `run.workers` actors.

    An actor whose process or host is lost is started again, elsewhere if need be, and does its job again.

    Args:
        kind: a class that every actor makes one object of.
        plan: what it is made with.
        method: what does one job.
        jobs: in the order in which they are handed out; each is made when it is.
        ctx: says how many actors, and how often each may be lost (`run.restarts`).
        asked: see `resources`.

    Raises:
        VimError: what an actor raised, or that one was lost more than `run.restarts` times.
    """
    import ray

    made = ray.remote(max_restarts=ctx.run.restarts, max_task_retries=ctx.run.restarts, **asked)(kind)
    actors: list[Any] = []
    busy: dict[Any, tuple[Any, J]] = {}
    try:
        waiting = iter(jobs)
        for job in islice(waiting, ctx.run.workers):
            actors.append(made.remote(plan))
            busy[getattr(actors[-1], method).remote(job)] = (actors[-1], job)
        while busy:
            with interruptible():
                (ready,), _ = ray.wait(list(busy), num_returns=1)
            actor, job = busy.pop(ready)
            for another in islice(waiting, 1):  # before the result is used, so that the actor goes on meanwhile
                busy[getattr(actor, method).remote(another)] = (actor, another)
            yield job, _result(ready, ctx)
    finally:
        for actor in actors:
            ray.kill(actor)


def _result(ready: Any, ctx: Context) -> Any:
    import ray

    try:
        return ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, VimError):
            raise type(cause)(str(cause)) from error
        raise VimError(f"{ctx.name}: {type(cause).__name__}: {cause}") from error
    except ray.exceptions.RayActorError as error:
        raise VimError(f"{ctx.name}: an actor was lost more than run.restarts={ctx.run.restarts} times") from error
