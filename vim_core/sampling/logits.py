"""Sampling a code from logits: settings, guidance schedules, top-k and nucleus filters, keyed noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vim_core.data.sample_order import keyed_rng

SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class SamplingSettings:
    """Settings of sampling; `top_k=0` and `top_p=1` keep the whole distribution, `guidance=1` is plain conditioning.

    `guidance_schedule` and `guidance_power`: see `guidance_scales`.
    """

    seed: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0
    guidance_schedule: str = "constant"
    guidance_power: float = 1.0

    @property
    def guided(self) -> bool:
        """True if logits of the null class are needed, too."""
        return self.guidance != 1.0


def guidance_scales(settings: SamplingSettings, tokens: int) -> Tensor:
    """Guidance scale fp64 [T] at every code.

    `constant`: the same everywhere. The others rise from 1 to the full guidance g, which keeps the first codes, and so
    the layout, diverse. With s the share of the codes already sampled and p the power:
    `linear` is 1 + (g - 1) s^p, where s counts the code itself (p = 1: Muse, arXiv 2301.00704; MAR, arXiv 2406.11838);
    `cosine` is 1 + (g - 1) (1 - cos(pi s^p)) / 2 over the codes before it (MDT, arXiv 2303.14389; RAR, arXiv
    2411.00776, with p around 1 to 3).

    Raises:
        ValueError: the schedule is unknown.
    """
    position = torch.arange(tokens, dtype=torch.float64)  # [T]
    if settings.guidance_schedule == "constant":
        return torch.full_like(position, settings.guidance)
    if settings.guidance_schedule == "linear":
        ramp = ((position + 1) / tokens) ** settings.guidance_power
    elif settings.guidance_schedule == "cosine":
        ramp = (1 - torch.cos(torch.pi * (position / tokens) ** settings.guidance_power)) / 2
    else:
        raise ValueError(f"guidance_schedule={settings.guidance_schedule!r}: must be one of {', '.join(SCHEDULES)}")
    return 1 + (settings.guidance - 1) * ramp


def filter_logits(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Set logits [B, V] outside the top-k and the nucleus of mass `top_p` to -inf.

    All ties at the k-th value are kept, and so is the code that crosses `top_p`: at least one code always is.
    """
    if 0 < top_k < logits.shape[-1]:
        kth = logits.topk(top_k).values[:, -1:]  # [B, 1]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p < 1:
        ordered, index = logits.sort(descending=True)  # [B, V]
        probabilities = ordered.softmax(-1)
        beyond = probabilities.cumsum(-1) - probabilities >= top_p  # mass before the code, [B, V]
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, index, beyond), -torch.inf)
    return logits


def sample_codes(logits: Tensor, uniform: Tensor, settings: SamplingSettings) -> Tensor:
    """Codes int64 [B] from logits [B, V] by inverse CDF of one uniform number [B] each, in fp64."""
    scaled = filter_logits(logits / settings.temperature, settings.top_k, settings.top_p).double()
    # Not normalised: the uniform number is scaled to the total mass instead.
    cumulative = (scaled - scaled.amax(-1, keepdim=True)).exp_().cumsum(-1)  # [B, V]
    target = uniform[:, None] * cumulative[:, -1:]  # [B, 1]
    last = logits.shape[-1] - 1
    if logits.device.type == "xla":  # no binary search there
        return (cumulative <= target).sum(-1).clamp_max(last)
    return torch.searchsorted(cumulative, target, right=True).clamp_max(last)[:, 0]


def sampling_noise(seed: int, first: int, count: int, tokens: int) -> Tensor:
    """Uniform numbers fp64 [count, tokens] in [0, 1); row i is a pure function of (seed, first + i)."""
    rows = [keyed_rng("sample", seed, index).random(tokens) for index in range(first, first + count)]
    return torch.from_numpy(np.stack(rows))
