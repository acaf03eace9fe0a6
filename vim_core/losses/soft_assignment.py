"""Soft assignment of latents to codes, for the codebook's entropy term, without the whole table of probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vim_core.layers.transformer import recomputed

CHUNK = 1 << 24
"""Probabilities that exist at a time (64 MiB): 256 images of 1,024 tokens over 8,192 codes would be 8.6 GB."""


@dataclass
class Assignment:
    """Softmax over all codes, seen from both sides.

    sample_entropy: mean entropy of each latent's own distribution, in nats, a scalar.
    mean: mean distribution [codes] over the latents.
    """

    sample_entropy: Tensor
    mean: Tensor


def soft_assignment(latents: Tensor, entries: Tensor, temperature: float) -> Assignment:
    """Softmax of the negative squared distances over `temperature`, for latents [N, D] and entries [K, D] in fp32.

    Rows come in chunks whose probabilities are computed again in the backward pass instead of being kept.
    """
    # On XLA a row belongs to a device: parts of all rows would each lie on a few devices.
    rows = len(latents) if latents.device.type == "xla" else max(1, CHUNK // len(entries))
    entropies, means = [], []
    for chunk in latents.split(rows):
        entropy, mean = recomputed(_sums, chunk, entries, temperature, noise=False)
        entropies.append(entropy)
        means.append(mean)
    count = len(latents)
    return Assignment(torch.stack(entropies).sum() / count, torch.stack(means).sum(0) / count)


def _sums(latents: Tensor, entries: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Sum of the entropies and sum of the distributions [K]; the latents' own norms fall out of the softmax."""
    logits = (2 * latents @ entries.T - entries.square().sum(1)) / temperature
    log_shares = logits.log_softmax(1)
    shares = log_shares.exp()
    return -(shares * log_shares).sum(), shares.sum(0)
