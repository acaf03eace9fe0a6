"""Gradient accumulation: a batch as several microbatches, with the gradients of the whole batch's mean loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from vim_core.config import TrainConfig
from vim_core.distributed.runtimes.base import Runtime
from vim_core.errors import ConfigError

K = TypeVar("K")


def check_batch(config: TrainConfig, world: int, component: str) -> None:
    """Raise `ConfigError` unless workers and microbatches divide the batch."""
    parts = world * config.accumulate
    if config.batch % parts:
        raise ConfigError(
            f"{component}.accumulate={config.accumulate}: with run.workers={world} it makes {parts} parts, which do "
            f"not divide {component}.batch={config.batch}"
        )


def accumulate_gradients(
    compute: Callable[..., tuple[dict[str, Tensor], K]],
    batch: Sequence[Tensor],
    parts: int,
    runtime: Runtime,
    network: nn.Module,
) -> tuple[dict[str, Tensor], list[K]]:
    """Run `compute` and its backward pass over `parts` consecutive microbatches.

    Consecutive, because the discriminator's groups are of neighbouring images: they stay together. The caller clears
    the gradients before and updates after. Workers average them during the last backward pass alone.

    Args:
        compute: takes the microbatch's share of each tensor in `batch`; returns weighted loss terms by name, each a
            scalar mean over samples whose sum is the loss, and what outlives the backward pass, without gradient.
        batch: tensors of the same first axis.
        parts: number of microbatches; divides that axis.
        runtime: splits the batch, and averages over the workers.
        network: learns from the gradients.

    Returns:
        The terms, detached, as means over the whole batch, and what `compute` returned beside them, in order.
    """
    terms: list[dict[str, Tensor]] = []
    results: list[K] = []
    microbatches = zip(*(runtime.microbatches(tensor, parts) for tensor in batch), strict=True)
    for index, microbatch in enumerate(microbatches):
        runtime.begin_microbatch(network, index, parts)
        with record_function("vim.forward"):
            own, result = compute(*microbatch)
            loss = total_loss(own)
        with record_function("vim.backward"):
            (loss / parts if parts > 1 else loss).backward()
        terms.append({name: value.detach() for name, value in own.items()})
        results.append(result)
    return {name: mean([part[name] for part in terms]) for name in terms[0]}, results


def total_loss(terms: dict[str, Tensor]) -> Tensor:
    """The loss: the sum of its terms."""
    return torch.stack(list(terms.values())).sum()


def concatenate(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all microbatches in order, without a copy where there is one."""
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def mean(parts: Sequence[Tensor]) -> Tensor:
    """The mean of the microbatches' scalars, without an operation where there is one."""
    return torch.stack(list(parts)).mean() if len(parts) > 1 else parts[0]
