"""LeCam regularisation of a discriminator: moving averages of its logits (arXiv 2104.03310)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vim_core.config import LeCamConfig
from vim_core.losses.terms import lecam_penalty
from vim_core.optim.masked_adamw import scalar


class LeCam(nn.Module):
    """Averages of real and generated logits over the steps, part of the checkpointed state."""

    real: Tensor
    fake: Tensor

    def __init__(self, config: LeCamConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    def penalty(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Weighted penalty of logits of any shape against the averages of the steps before."""
        # Copies: the averages move before the backward pass of an accumulated step.
        return self.config.weight * lecam_penalty(real_logits, fake_logits, self.real.clone(), self.fake.clone())

    @torch.no_grad()
    def observe(self, step: int, real: Tensor, fake: Tensor, skipped: Tensor) -> None:
        """Follow the mean logits of the global batch after step `step` (from 0), unless the flag `skipped` is 1.

        The decay is warmed up as min(decay, (1 + n) / (10 + n)), else the averages would start from zero for 1/decay
        steps. Logits that are not finite change nothing, whatever the flag says.
        """
        decay = min(self.config.decay, (1 + step) / (10 + step))
        # A tensor, so that the graph stays the same while the decay grows.
        share = scalar(1 - decay, self.real.device)
        keep = (skipped > 0) | ~(real.isfinite() & fake.isfinite())
        for average, value in ((self.real, real), (self.fake, fake)):
            average.copy_(torch.where(keep, average, average.lerp(value.to(average.dtype), share)))
