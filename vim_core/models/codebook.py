"""Vector quantizer with factorized, l2-normalised codes and dead-code restarts (paper section 3.2).

Its entropy term, from a soft assignment of latents to codes, is that of MAGVIT-v2 (arXiv 2310.05737).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vim_core.config import CodebookConfig
from vim_core.layers.transformer import recomputed

CHUNK = 1 << 24
"""Probabilities that exist at a time (64 MiB): 256 images of 1,024 tokens over 8,192 codes would be 8.6 GB."""


@dataclass
class SoftAssignment:
    """Softmax of each latent over all codes, reduced.

    sample_entropy: mean entropy of each latent's own distribution, in nats, a scalar.
    mean: mean distribution [codes] over the latents.
    """

    sample_entropy: Tensor
    mean: Tensor


def soft_assignment(latents: Tensor, entries: Tensor, temperature: float) -> SoftAssignment:
    """Softmax of the negative squared distances over `temperature`, for latents [N, D] and entries [K, D] in fp32.

    Rows come in chunks whose probabilities are computed again in the backward pass instead of being stored.
    """
    # On XLA a row belongs to a device: chunks of rows would each lie on a few devices.
    rows = len(latents) if latents.device.type == "xla" else max(1, CHUNK // len(entries))
    entropies, sums = [], []
    for chunk in latents.split(rows):
        entropy, shares = recomputed(_chunk_sums, chunk, entries, temperature, noise=False)
        entropies.append(entropy)
        sums.append(shares)
    count = len(latents)
    return SoftAssignment(torch.stack(entropies).sum() / count, torch.stack(sums).sum(0) / count)


def _chunk_sums(latents: Tensor, entries: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Sum of the entropies [] and sum of the distributions [K]; the latents' own norms cancel in the softmax."""
    logits = (2 * latents @ entries.T - entries.square().sum(1)) / temperature  # [N, K]
    log_shares = logits.log_softmax(1)
    shares = log_shares.exp()
    return -(shares * log_shares).sum(), shares.sum(0)


def entropy_loss(sample_entropy: Tensor, mean: Tensor, diversity: float) -> Tensor:
    """Mean entropy of each latent's assignment less `diversity` times the entropy of the mean assignment [codes].

    Low where every latent is sure of its code and all codes are used.
    """
    shares = mean.clamp_min(torch.finfo(mean.dtype).tiny)
    return sample_entropy + diversity * (mean * shares.log()).sum()


@dataclass
class Quantized:
    """Result of the quantizer for latents [N, code_dim].

    vectors: code vectors [N, code_dim], as the decoder receives them (normalised under l2); their gradient goes to
        the latents by the estimator of `codebook.gradient`.
    codes: int64 [N].
    latents: the (normalised) latents that were looked up [N, code_dim].
    codebook_loss, commitment_loss: scalars, both means over all elements.
    assignment: soft assignment of the latents, where `codebook.entropy.weight` is not 0.
    """

    vectors: Tensor
    codes: Tensor
    latents: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor
    assignment: SoftAssignment | None = None


def rotation_trick(latents: Tensor, entries: Tensor) -> Tensor:
    """The entries [N, D], bit for bit, whose gradient reaches the latents [N, D] by the rotation trick.

    Each entry q is seen as s R e: its latent e, rotated by R in the plane of both and scaled by s = |q| / |e|, with R
    and s held constant. So a gradient g at q becomes s R^T g at e (Fifty et al. 2024, arXiv 2410.06424, section 4).
    With unit vectors a of e and b of q and r of a + b, R = I - 2 r r^T + 2 b a^T, applied without building it.
    """
    with torch.no_grad():
        a, b = F.normalize(latents, dim=-1), F.normalize(entries, dim=-1)  # [N, D]
        r = F.normalize(a + b, dim=-1)  # [N, D]
        scale = entries.norm(dim=-1, keepdim=True) / latents.norm(dim=-1, keepdim=True).clamp_min(1e-12)  # [N, 1]
    along_r, along_a = (latents * r).sum(-1, keepdim=True), (latents * a).sum(-1, keepdim=True)  # [N, 1]
    turned = scale * (latents - 2 * along_r * r + 2 * along_a * b)
    # The difference is exactly zero: only its gradient counts.
    return entries.detach() + (turned - turned.detach())  # type: ignore[no-any-return]


def batch_perplexity(counts: Tensor) -> Tensor:
    """Perplexity of assignment counts [codes], the number of evenly used codes of equal entropy; a scalar."""
    share = counts / counts.sum()
    return torch.exp(-torch.special.xlogy(share, share).sum())


class Codebook(nn.Module):
    """Nearest-neighbour lookup; under `l2` both sides are normalised, so the lookup is by cosine.

    The embedding starts from a normal distribution and learns by gradient through the codebook loss, without EMA.
    `usage` is the moving share of assignments per code that restarts look at.
    """

    usage: Tensor

    def __init__(self, config: CodebookConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.codes, config.dim))
        self.register_buffer("usage", torch.empty(config.codes))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the entries anew; every code counts as equally used."""
        if self.weight.is_meta:
            return
        self.weight.normal_()
        self.usage.fill_(1.0 / self.config.codes)

    def _normalised(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) if self.config.l2 else x

    def vectors(self, codes: Tensor) -> Tensor:
        """Code vectors [..., code_dim] of int codes [...], as the decoder receives them."""
        return self._normalised(F.embedding(codes, self.weight))

    def nearest(self, latents: Tensor) -> Tensor:
        """Index of the nearest entry [N] for latents [N, code_dim], in fp32."""
        latents, entries = self._normalised(latents.float()), self._normalised(self.weight.float())
        scores = latents @ entries.T  # [N, codes]
        if not self.config.l2:
            scores = scores - 0.5 * entries.square().sum(1)
        return scores.argmax(dim=1)

    def forward(self, latents: Tensor) -> Quantized:
        """Quantize latents [N, code_dim] in fp32, whatever the surrounding precision."""
        # The meta device has no autocast.
        device = latents.device.type
        with contextlib.nullcontext() if device == "meta" else torch.autocast(device, enabled=False):
            z = self._normalised(latents.float())  # [N, code_dim]
            codes = self.nearest(latents.detach())  # [N]
            entries = self.vectors(codes)  # [N, code_dim]
            rotate, entropy = self.config.gradient == "rotation", self.config.entropy
            return Quantized(
                vectors=rotation_trick(z, entries) if rotate else z + (entries - z).detach(),
                codes=codes,
                latents=z.detach(),
                codebook_loss=F.mse_loss(entries, z.detach()),
                commitment_loss=F.mse_loss(z, entries.detach()),
                assignment=soft_assignment(z, self._normalised(self.weight.float()), entropy.temperature)
                if entropy.weight
                else None,
            )

    @torch.no_grad()
    def observe(self, counts: Tensor, skipped: Tensor | None = None) -> None:
        """Update the moving usage with the global batch's assignment counts [codes], unless the flag `skipped` is 1."""
        share = counts.to(self.usage.dtype) / counts.sum()
        moved = self.usage.lerp(share, 1.0 - self.config.restart.decay)
        self.usage.copy_(moved if skipped is None else torch.where(skipped > 0, self.usage, moved))

    @torch.no_grad()
    def restart(
        self, latents: Tensor, draw: Tensor, optimizer: torch.optim.Optimizer, skipped: Tensor | None = None
    ) -> Tensor:
        """Replace unused codes by latents of the current batch; returns the mask of replaced codes [codes].

        Args:
            latents: normalised latents of the batch [N, code_dim].
            draw: row of `latents` for every code, int64 [codes], keyed by (seed, step) by the caller.
            optimizer: its moments of replaced rows are cleared, else they would move the new codes.
            skipped: flag of a step whose update did not happen; then no code is replaced.
        """
        codes = self.config.codes
        drawn = latents[draw].to(self.weight.dtype)  # [codes, code_dim]
        # Not by NaN: a step whose update is skipped must not enter the weights here either (contract 5).
        dead = (self.usage < self.config.restart.threshold / codes) & drawn.isfinite().all(dim=1)
        if skipped is not None:
            dead = dead & (skipped == 0)
        self.weight.copy_(torch.where(dead[:, None], drawn, self.weight))
        self.usage.copy_(torch.where(dead, 1.0 / codes, self.usage))
        for value in optimizer.state[self.weight].values():
            if isinstance(value, Tensor) and value.shape == self.weight.shape:
                value.mul_((~dead)[:, None])
        return dead
