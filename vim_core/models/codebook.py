"""Vector quantizer with factorized, l2-normalised codes and dead-code restarts (paper section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vim_core.config import CodebookConfig


@dataclass
class Quantized:
    """What the quantizer returns for latents [N, code_dim].

    vectors: straight-through code vectors [N, code_dim], as the decoder receives them (normalised under l2).
    codes: int64 [N].
    latents: the (normalised) latents that were looked up [N, code_dim].
    codebook_loss, commitment_loss: scalars, both means over all elements.
    """

    vectors: Tensor
    codes: Tensor
    latents: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor


class Codebook(nn.Module):
    """Nearest-neighbour lookup; under `l2` both sides are normalised, so the lookup is by cosine.

    The embedding starts from a normal distribution and learns by gradient through the codebook loss, without EMA.
    `usage` is the moving share of assignments per code that restarts look at.
    """

    usage: Tensor

    def __init__(self, config: CodebookConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.randn(config.codes, config.dim))
        self.register_buffer("usage", torch.full((config.codes,), 1.0 / config.codes))

    def _normalised(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) if self.config.l2 else x

    def vectors(self, codes: Tensor) -> Tensor:
        """Code vectors [..., code_dim] of int codes [...], as the decoder receives them."""
        return self._normalised(F.embedding(codes, self.weight))

    def nearest(self, latents: Tensor) -> Tensor:
        """Index of the nearest entry [N] for latents [N, code_dim], in fp32."""
        latents, entries = self._normalised(latents.float()), self._normalised(self.weight.float())
        scores = latents @ entries.T
        if not self.config.l2:
            scores = scores - 0.5 * entries.square().sum(1)
        return scores.argmax(dim=1)

    def forward(self, latents: Tensor) -> Quantized:
        """Quantize latents [N, code_dim] in fp32, whatever the surrounding precision."""
        with torch.autocast(latents.device.type, enabled=False):
            z = self._normalised(latents.float())
            codes = self.nearest(latents.detach())
            entries = self.vectors(codes)
            return Quantized(
                vectors=z + (entries - z).detach(),
                codes=codes,
                latents=z.detach(),
                codebook_loss=F.mse_loss(entries, z.detach()),
                commitment_loss=F.mse_loss(z, entries.detach()),
            )

    @torch.no_grad()
    def observe(self, counts: Tensor) -> None:
        """Fold the global batch's assignment counts [codes] into the moving usage."""
        share = counts.to(self.usage.dtype) / counts.sum()
        self.usage.lerp_(share, 1.0 - self.config.restart.decay)

    @torch.no_grad()
    def restart(self, latents: Tensor, draw: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
        """Move codes that fell out of use onto latents of the current batch; returns the mask of moved codes [codes].

        Args:
            latents: normalised latents of the batch [N, code_dim].
            draw: row of `latents` for every code, int64 [codes], keyed by (seed, step) by the caller.
            optimizer: its moments of moved rows are cleared, else they would drag the new codes away.
        """
        codes = self.config.codes
        drawn = latents[draw].to(self.weight.dtype)
        # Not onto NaN: a step whose update is skipped must not enter the weights here either (contract 5).
        dead = (self.usage < self.config.restart.threshold / codes) & drawn.isfinite().all(dim=1)
        self.weight.copy_(torch.where(dead[:, None], drawn, self.weight))
        self.usage.copy_(torch.where(dead, 1.0 / codes, self.usage))
        for value in optimizer.state[self.weight].values():
            if isinstance(value, Tensor) and value.shape == self.weight.shape:
                value.mul_((~dead)[:, None])
        return dead
