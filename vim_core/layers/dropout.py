"""Dropout that is as fast on CPU as the arithmetic around it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 1 << 16


class Dropout(nn.Module):
    """`nn.Dropout` with another way of drawing the mask on CPU.

    torch draws one Bernoulli number at a time there, which takes longer than a whole transformer layer; four
    16-bit numbers of one 64-bit draw take a tenth of that. The rate is exact to 1 / 65536, the scale matches it.
    torch.compile cannot trace such a draw and generates a fast one of its own. The noise comes from torch's default
    generator, so seeding works as usual.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; the identity in evaluation mode."""
        if not self.training or self.rate == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(x, self.rate)
        return x * keep_mask(x, self.rate)

    def extra_repr(self) -> str:
        """For printed models."""
        return f"rate={self.rate}"


def keep_mask(x: Tensor, rate: float) -> Tensor:
    """A mask of x's shape and dtype: 0 with probability `rate`, else 1 / (1 - rate)."""
    dropped = round(rate * LEVELS)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
    draws = words.view(torch.int16)[: x.numel()].view(x.shape)
    return (draws >= dropped - LEVELS // 2).to(x.dtype).mul_(LEVELS / (LEVELS - dropped))
