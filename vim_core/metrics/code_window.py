"""Codebook usage and perplexity while training: over the last batches, as many as make up the paper's 256 images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

IMAGES = 256
"""The paper counts distinct codes of so many images (caption of Table 4); fewer count lower."""


class CodeUsageWindow(nn.Module):
    """Counts of the last `ceil(256 / batch)` global batches, on the device, by the same operations every step.

    The first batches of a run stand alone until there are enough; a checkpoint keeps them. Training images are
    augmented and the codebook moves from batch to batch, so this follows the paper's figure and is not it.

    Args:
        codes: size of the codebook.
        batch: images of a global batch.
        device: where counts arrive.
    """

    counts: Tensor

    def __init__(self, codes: int, batch: int, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(-(-IMAGES // batch), codes, device=device))

    @torch.no_grad()
    def add(self, counts: Tensor, skipped: Tensor | None = None) -> dict[str, Tensor]:
        """Take in one batch's counts [codes]: `codebook_usage` in (0, 1] and `codebook_perplexity` in codes.

        A batch whose update was skipped (a flag, 1.0 for skipped) is counted in the figures and not kept.
        """
        latest = torch.cat([counts[None].to(self.counts.dtype), self.counts[:-1]])
        self.counts.copy_(latest if skipped is None else torch.where(skipped > 0, self.counts, latest))
        total = latest.sum(0)
        shares = total / total.sum()
        entropy = -torch.xlogy(shares, shares).sum()
        return {"codebook_usage": (total > 0).float().mean(), "codebook_perplexity": entropy.exp()}
