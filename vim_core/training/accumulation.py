"""Gradient accumulation: one batch as several smaller ones, whose mean loss is the whole batch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from vim_core.config import TrainConfig
from vim_core.errors import ConfigError


class ForwardPass(Protocol):
    """What a forward pass over a microbatch gives: the loss's weighted terms, scalars that are means over samples."""

    @property
    def terms(self) -> dict[str, Tensor]:
        """By name; their sum is the loss."""


P = TypeVar("P", bound=ForwardPass)
K = TypeVar("K")
Split = Callable[[Tensor, int], Sequence[Tensor]]


def check_batch(config: TrainConfig, world: int, component: str) -> None:
    """Refuse what does not come out even.

    Raises:
        ConfigError: workers and microbatches do not divide the batch.
    """
    parts = world * config.accumulate
    if config.batch % parts:
        raise ConfigError(
            f"{component}.accumulate={config.accumulate}: with run.workers={world} it makes {parts} parts, which do "
            f"not divide {component}.batch={config.batch}"
        )


def accumulate_gradients(
    compute: Callable[..., P], keep: Callable[[P], K], batch: Sequence[Tensor], parts: int, split: Split
) -> tuple[dict[str, Tensor], list[K]]:
    """Run `compute` over `parts` consecutive microbatches and add up the gradients of the batch's mean loss.

    Consecutive, because the discriminator's groups are of neighbouring images: they stay together. The caller clears
    the gradients before and updates after.

    Args:
        compute: takes the microbatch's share of each tensor in `batch`.
        keep: what to hold of each pass beyond its backward; activations are freed with the rest.
        batch: tensors of the same first axis.
        parts: how many; they divide that axis.
        split: takes the batch apart, such as `Runtime.microbatches`.

    Returns:
        the terms, detached, as means over the whole batch, and what was kept of each microbatch in order.
    """
    rows: list[dict[str, Tensor]] = []
    kept: list[K] = []
    for shares in zip(*(split(whole, parts) for whole in batch), strict=True):
        passed = compute(*shares)
        loss = total_loss(passed.terms)
        (loss / parts if parts > 1 else loss).backward()
        rows.append({name: value.detach() for name, value in passed.terms.items()})
        kept.append(keep(passed))
    return mean_terms(rows), kept


def mean_terms(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of every figure over the microbatches' rows; of one row, that row."""
    if len(rows) == 1:
        return rows[0]
    return {name: torch.stack([row[name] for row in rows]).mean() for name in rows[0]}


def total_loss(terms: dict[str, Tensor]) -> Tensor:
    """The loss: the sum of its terms."""
    return torch.stack(list(terms.values())).sum()


def concatenate(parts: Sequence[Tensor]) -> Tensor:
    """The microbatches' rows one after the other; of one microbatch, those."""
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def mean(parts: Sequence[Tensor]) -> Tensor:
    """The mean of the microbatches' scalars; of one microbatch, that one."""
    return torch.stack(list(parts)).mean() if len(parts) > 1 else parts[0]
