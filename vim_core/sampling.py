"""Drawing codes from the prior: static KV cache, fixed lanes, noise keyed by (seed, sample index) (contract 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vim_core.data.position import keyed_rng
from vim_core.models.prior import ImagePrior


@dataclass(frozen=True)
class Settings:
    """How to draw; `top_k=0` and `top_p=1` leave the distribution whole, `guidance=1` is plain conditioning."""

    seed: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0


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
    scaled = restrict(logits / settings.temperature, settings.top_k, settings.top_p)
    cumulative = scaled.double().softmax(-1).cumsum(-1)
    target = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).clamp_max(logits.shape[-1] - 1)[:, 0]


def noise(seed: int, first: int, count: int, tokens: int) -> Tensor:
    """Uniform numbers [count, tokens] in [0, 1), row i a pure function of (seed, first + i)."""
    rows = [keyed_rng("sample", seed, index).random(tokens) for index in range(first, first + count)]
    return torch.from_numpy(np.stack(rows))


class Sampler:
    """Draws whole lane groups: group g holds the samples g * lanes … (g + 1) * lanes - 1, sample i in lane i mod lanes.

    The batch shape never changes, so a sample does not depend on how many were asked for.
    """

    def __init__(self, prior: ImagePrior, settings: Settings, lanes: int, dtype: torch.dtype = torch.float32) -> None:
        self.prior = prior.eval()
        self.settings = settings
        self.lanes = lanes
        self.dtype = dtype
        self.guided = settings.guidance != 1.0

    @torch.inference_mode()
    def group(self, index: int, labels: Tensor) -> Tensor:
        """Codes [lanes, T] of lane group `index`.

        Args:
            index: which group.
            labels: class of every lane, int64 [lanes].

        Raises:
            ValueError: there is not one label a lane.
        """
        if labels.shape != (self.lanes,):
            raise ValueError(f"expected {self.lanes} labels, one a lane, got {list(labels.shape)}")
        device, tokens = self.prior.device, self.prior.shape.tokens
        uniform = noise(self.settings.seed, index * self.lanes, self.lanes, tokens).to(device)
        labels = labels.to(device)
        if self.guided:
            labels = torch.cat([labels, torch.full_like(labels, self.prior.null_class)])
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.dtype is torch.bfloat16):
            return self._decode(labels, uniform).cpu()

    def _decode(self, labels: Tensor, uniform: Tensor) -> Tensor:
        prior, tokens = self.prior, self.prior.shape.tokens
        cache = prior.empty_cache(len(labels), self.dtype)
        steps = torch.arange(tokens, device=labels.device)
        positions = prior.positions()
        codes = torch.empty(self.lanes, tokens, dtype=torch.int64, device=labels.device)
        x = prior.class_embedding(labels)[:, None]
        for t in range(tokens):
            mask = torch.where(steps <= t, 0.0, -torch.inf).to(self.dtype)
            logits = self._guide(prior.decode_step(x, cache, steps[t : t + 1], mask))
            codes[:, t] = draw(logits, uniform[:, t], self.settings)
            x = (prior.code_embedding(codes[:, t]) + positions[t])[:, None]
            x = x.repeat(2, 1, 1) if self.guided else x
        return codes

    def _guide(self, logits: Tensor) -> Tensor:
        if not self.guided:
            return logits
        conditional, free = logits.chunk(2)
        return free + self.settings.guidance * (conditional - free)
