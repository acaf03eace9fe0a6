"""One code from logits: restricting the distribution, inverting it, and the noise that chooses."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vim_core.data.position import keyed_rng
from vim_core.sampling.settings import Settings


def restrict(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Set logits [B, V] outside the top-k and the nucleus of mass `top_p` to -inf.

    Ties at the k-th value are all kept; the code that crosses `top_p` is kept, so at least one always is.
    """
    if 0 < top_k < logits.shape[-1]:
        kth = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p < 1:
        ordered, index = logits.sort(descending=True)
        probabilities = ordered.softmax(-1)
        beyond = probabilities.cumsum(-1) - probabilities >= top_p
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, index, beyond), -torch.inf)
    return logits


def draw(logits: Tensor, uniform: Tensor, settings: Settings) -> Tensor:
    """Codes int64 [B] from logits [B, V] by inverse CDF of one uniform number [B] each, in fp64."""
    scaled = restrict(logits / settings.temperature, settings.top_k, settings.top_p).double()
    # Not normalised: the number is stretched to the whole mass instead.
    cumulative = (scaled - scaled.amax(-1, keepdim=True)).exp_().cumsum(-1)
    target = uniform[:, None] * cumulative[:, -1:]
    last = logits.shape[-1] - 1
    if logits.device.type == "xla":  # it knows no binary search
        return (cumulative <= target).sum(-1).clamp_max(last)
    return torch.searchsorted(cumulative, target, right=True).clamp_max(last)[:, 0]


def noise(seed: int, first: int, count: int, tokens: int) -> Tensor:
    """Uniform numbers [count, tokens] in [0, 1), row i a pure function of (seed, first + i)."""
    rows = [keyed_rng("sample", seed, index).random(tokens) for index in range(first, first + count)]
    return torch.from_numpy(np.stack(rows))
