"""Tokenizing by Ray actors, for hosts that Beam cannot reach; the stages are the same, so the codes are.

Each actor holds one tokenizer and takes one shard at a time. An actor whose host is lost comes back on another one and
does its shard again; finished shards stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from components.contract.api import Context
from components.tokenize.stages import Plan, Shard, tokenized
from vim_core.config import RunConfig

if TYPE_CHECKING:
    from vim_core.models.vit_vqgan import Tokenizer


def device_of(run: RunConfig) -> str:
    """'xla', or what Beam's workers have.

    Raises:
        ConfigError: CUDA was asked for and is not there.
    """
    from components.engines.beam import jobs

    return "xla" if run.device == "xla" else jobs.device_of(run)


def threads_of(run: RunConfig) -> int:
    """Threads of each actor: as of each training worker, all that `run.threads` allows."""
    from vim_core.distributed.runtimes import resolve_threads

    return resolve_threads(run.threads)


def place(device: str, threads: int) -> str:
    """Torch's name of the device in this process; XLA gets ready when it is first asked for."""
    if device != "xla":
        return device
    from vim_core.distributed import runtimes

    return str(runtimes.create("xla", "fp32", threads).device)


class Encoder:
    """One actor: the tokenizer, loaded once."""

    def __init__(self, plan: Plan) -> None:
        from components.engines.beam import jobs

        jobs.set_threads(plan.threads)
        self.plan = plan
        self.tokenizer: Tokenizer = jobs.tokenizer(plan.weights, plan.config, place(plan.device, plan.threads))

    def tokenize(self, shard: Shard) -> str:
        """One shard; gives its name."""
        from components.engines.beam import jobs

        jobs.set_threads(self.plan.threads)
        return tokenized(self.plan, shard, self.tokenizer)


def run(plan: Plan, shards: Sequence[Shard], ctx: Context, before: int) -> None:
    """Do all shards on `run.workers` actors; `before` were finished by an earlier attempt.

    Raises:
        VimError: what an actor raised, or that actors were lost more than `run.restarts` times.
    """
    from components.engines.ray import pool
    from components.engines.ray.session import connect

    connect(ctx)
    asked = pool.resources(plan.device, plan.threads)
    for done, _ in enumerate(pool.results(Encoder, plan, "tokenize", shards, ctx, asked), before + 1):
        ctx.progress.advance(done)
