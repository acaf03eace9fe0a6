"""Tokenizing by Ray actors, for hosts that Beam cannot reach; the stages are the same, so the codes are.

Each actor holds one tokenizer and takes one shard at a time. An actor whose host is lost comes back on another one and
does its shard again; finished shards stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from components.contract.api import Context
from components.engines import devices
from components.tokenize.plan import TokenizePlan, TokenizeShard
from components.tokenize.stages import tokenize_shard

if TYPE_CHECKING:
    from vim_core.models.vit_vqgan import Tokenizer


class EncodeActor:
    """One actor: the tokenizer, loaded once."""

    def __init__(self, plan: TokenizePlan) -> None:
        devices.set_threads(plan.threads)
        self.plan = plan
        device = devices.torch_device(plan.device, plan.threads)
        self.tokenizer: Tokenizer = devices.cached_tokenizer(plan.weights, plan.config, device)

    def tokenize(self, shard: TokenizeShard) -> str:
        """Tokenize one shard; returns its name."""
        devices.set_threads(self.plan.threads)
        return tokenize_shard(self.plan, shard, self.tokenizer)


def run(plan: TokenizePlan, shards: Sequence[TokenizeShard], ctx: Context, before: int) -> None:
    """Tokenize all shards on `run.workers` actors; `before` more were finished by an earlier attempt.

    Raises:
        VimError: an actor raised it, or actors were lost more than `run.restarts` times.
    """
    from components.engines.ray import pool
    from components.engines.ray.session import connect

    connect(ctx.run)
    resources = pool.actor_resources(plan.device, plan.threads)
    results = pool.map_actors(EncodeActor, plan, "tokenize", shards, ctx, resources)
    for done, _ in enumerate(results, before + 1):
        ctx.progress.advance(done)
