"""Tokenizing by Ray actors, for hosts that Beam cannot reach; the stages are the same, so the codes are.

Each actor holds one tokenizer and takes one shard at a time. An actor whose host is lost comes back on another one and
does its shard again; finished shards stay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from components.api import Context
from components.tokenizing.stages import Plan, Shard, tokenized
from vim_core.config import RunConfig
from vim_core.errors import VimError

if TYPE_CHECKING:
    from vim_core.models.vit_vqgan import Tokenizer


def device_of(run: RunConfig) -> str:
    """'xla', or what Beam's workers have.

    Raises:
        ConfigError: CUDA was asked for and is not there.
    """
    from components import beam_jobs

    return "xla" if run.device == "xla" else beam_jobs.device_of(run)


def threads_of(run: RunConfig) -> int:
    """Threads of each actor: as of each training worker, all that `run.threads` allows."""
    from vim_core.runtime import resolve_threads

    return resolve_threads(run.threads)


def resources(plan: Plan) -> dict[str, Any]:
    """What each actor asks Ray for.

    One chip of a TPU host an actor: with fewer than all, Ray makes libtpu take each part for a slice of its own, so
    that actors run independent programs instead of one in lockstep.
    """
    asked: dict[str, Any] = {"num_cpus": plan.threads}
    if plan.device == "cuda":
        asked["num_gpus"] = 1
    if plan.device == "xla" and _has_tpus():
        asked["resources"] = {"TPU": 1}
    return asked


def _has_tpus() -> bool:
    import ray

    return bool(ray.cluster_resources().get("TPU"))


def place(plan: Plan) -> str:
    """Torch's name of the device in this process; XLA gets ready when it is first asked for."""
    if plan.device != "xla":
        return plan.device
    from vim_core import runtime

    return str(runtime.create("xla", "fp32", plan.threads).device)


class Encoder:
    """One actor: the tokenizer, loaded once."""

    def __init__(self, plan: Plan) -> None:
        from components import beam_jobs

        beam_jobs.set_threads(plan.threads)
        self.plan = plan
        self.tokenizer: Tokenizer = beam_jobs.tokenizer(plan.weights, plan.config, place(plan))

    def tokenize(self, shard: Shard) -> str:
        """One shard; gives its name."""
        from components import beam_jobs

        beam_jobs.set_threads(self.plan.threads)
        return tokenized(self.plan, shard, self.tokenizer)


def run(plan: Plan, shards: Sequence[Shard], ctx: Context, before: int) -> None:
    """Do all shards on `run.workers` actors; `before` were finished by an earlier attempt.

    Raises:
        VimError: what an actor raised, or that actors were lost more than `run.restarts` times.
    """
    import ray

    from components.ray_train import connect

    connect(ctx)
    kind = ray.remote(max_restarts=ctx.run.restarts, max_task_retries=ctx.run.restarts, **resources(plan))(Encoder)
    actors: list[Any] = [kind.remote(plan) for _ in range(min(ctx.run.workers, len(shards)))]
    try:
        _feed(actors, deque(shards), ctx, before)
    finally:
        for actor in actors:
            ray.kill(actor)


def _feed(actors: Sequence[Any], waiting: deque[Shard], ctx: Context, done: int) -> None:
    """Hand each actor its next shard when it has finished one: a slow host holds nobody up."""
    import ray

    busy = {actor.tokenize.remote(waiting.popleft()): actor for actor in actors}
    while busy:
        (ready,), _ = ray.wait(list(busy), num_returns=1)
        actor = busy.pop(ready)
        _result(ready, ctx)
        done += 1
        ctx.progress.advance(done)
        if waiting:
            busy[actor.tokenize.remote(waiting.popleft())] = actor


def _result(ready: Any, ctx: Context) -> None:
    import ray

    try:
        ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, VimError):
            raise type(cause)(str(cause)) from error
        raise VimError(f"{ctx.name}: {type(cause).__name__}: {cause}") from error
    except ray.exceptions.RayActorError as error:
        raise VimError(f"{ctx.name}: an actor was lost more than run.restarts={ctx.run.restarts} times") from error
