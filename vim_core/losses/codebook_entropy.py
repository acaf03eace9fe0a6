"""Entropy term of the codebook from a soft assignment of latents to codes (MAGVIT-v2, arXiv 2310.05737)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
