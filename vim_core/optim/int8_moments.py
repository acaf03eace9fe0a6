"""First moments in eight bits: blocks of int8 levels, each block with one fp32 scale."""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 127
"""A block's largest magnitude is level 127; -128 is not used, so that signs are symmetric."""

BLOCK = 256
"""At most this many neighbouring elements of a row share a scale."""

SHORTEST = 16
"""Below this a block's scale would weigh more than what eight bits save; the whole row is one block then."""

TINY = torch.finfo(torch.float32).tiny


def block_length(columns: int) -> int:
    """Elements per block of rows of this length: the longest divisor up to 256, or the row if that is under 16.

    Blocks never cross rows, so a matrix that is split by rows over devices keeps its blocks.
    """
    divisor = next(length for length in range(min(BLOCK, columns), 0, -1) if columns % length == 0)
    return columns if divisor < SHORTEST else divisor


def thresholds(length: int, step: Tensor) -> Tensor:
    """Rounding thresholds in [0, 1) of `length` elements at step `step`: [length], a pure function of the step.

    Multiples of the golden ratio cover the interval evenly. Rounding to the nearest instead would never change some
    elements: 0.9 times 4 levels is nearer to 4 than to 3, so a moment without gradient would never decay.
    """
    index = torch.arange(length, device=step.device)
    # In 16-bit integers: exact on every device. 40503 / 65536 is the golden ratio, 25173 is any odd number.
    return ((index * 25_173 + step.to(torch.int64) * 40_503) & 0xFFFF).to(torch.float32) / 65_536


def quantise(x: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix [R, C] to int8 levels [R, C] and scales [R, C / block].

    The error of an element is less than one level, its block's largest magnitude / 127, and over the steps it is
    rounded up in proportion to its fraction, so that errors do not add up in one direction. A moment that decays by
    beta and is stored at each step lies within 1 / (1 - beta) levels of the exact one.

    Args:
        x: fp32.
        step: count of updates, a scalar tensor; see `thresholds`.
    """
    length = block_length(x.shape[1])
    blocks = x.reshape(len(x), -1, length)
    scales = blocks.abs().amax(2) / LEVELS
    levels = torch.floor(blocks / scales.clamp_min(TINY)[:, :, None] + thresholds(length, step))
    return levels.clamp(-LEVELS, LEVELS).to(torch.int8).flatten(1), scales


def dequantise(levels: Tensor, scales: Tensor) -> Tensor:
    """The fp32 matrix [R, C] of int8 levels [R, C] and scales [R, C / block]."""
    blocks = levels.reshape(*scales.shape, -1).to(scales.dtype)
    return (blocks * scales[:, :, None]).flatten(1)
