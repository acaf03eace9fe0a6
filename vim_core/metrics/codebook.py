"""Figures of codes: usage of the codebook (paper Table 4), perplexity, cost under a unigram model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vim_core.errors import DataError

IMAGES = 256
"""Images whose distinct codes the paper counts (caption of Table 4); fewer images count lower."""
CHUNK = 1 << 24
"""Codes counted at once: numpy widens them to 64 bits, and a table may hold billions."""


def usages(codes: NDArray[Any], vocabulary: int, batch: int = IMAGES) -> list[float]:
    """Share of the vocabulary found in each full batch of images, in (0, 1], for codes [N, T]; usage is their mean.

    The paper's definition (caption of Table 4): distinct codes of 256 test images, over the whole test set. Images
    beyond the last full batch are left out, because a smaller batch would count lower. Raises `DataError` for fewer
    images than one batch and for codes outside the vocabulary.
    """
    _check_codes(codes, vocabulary)
    full = codes.shape[0] // batch
    if full == 0:
        raise DataError(
            f"codebook usage is defined on {batch} images and there are {codes.shape[0]}: hold out more test images"
            " or set score.usage_batch"
        )
    return [np.unique(codes[i * batch : (i + 1) * batch]).size / vocabulary for i in range(full)]


def histogram(codes: NDArray[Any], vocabulary: int) -> NDArray[np.int64]:
    """Number of occurrences of each code in codes [N, T]: int64 [vocabulary]; histograms of parts add up."""
    _check_codes(codes, vocabulary)
    return np.bincount(codes.reshape(-1), minlength=vocabulary).astype(np.int64)


def perplexity(counts: NDArray[Any]) -> float:
    """2^entropy (in bits) of code counts [vocabulary]. Raises `DataError` where there are no codes."""
    total = counts.sum()
    if total <= 0:
        raise DataError("perplexity of no codes: the code table is empty")
    shares = counts[counts > 0] / total
    return float(np.exp2(-(shares * np.log2(shares)).sum()))


def unigram_bits(train: NDArray[Any], test: NDArray[Any], vocabulary: int) -> float:
    """Cross-entropy in bits per token of codes `test` [N, T] under the unigram frequencies of `train` [M, T].

    Add-one smoothing gives a code that is absent from `train` a finite cost. A prior must do better than this.
    """
    codes, counts = train.reshape(-1), np.ones(vocabulary)
    for start in range(0, codes.size, CHUNK):
        counts += np.bincount(codes[start : start + CHUNK], minlength=vocabulary)
    cost = -np.log2(counts / counts.sum())
    return float(cost[test.reshape(-1).astype(np.int64)].mean())


class CodeUsageWindow(nn.Module):
    """Codebook usage and perplexity while training, over the last `ceil(256 / batch)` global batches.

    Counts stay on the device, and every step runs the same operations. A run's first figures are of fewer batches; a
    checkpoint contains the counts. Training images are augmented and the codebook moves from batch to batch, so these
    figures approximate those of the paper.

    Args:
        codes: size of the codebook.
        batch: images of a global batch.
        device: of the counts.
    """

    counts: Tensor

    def __init__(self, codes: int, batch: int, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(-(-IMAGES // batch), codes, device=device))

    @torch.no_grad()
    def add(self, counts: Tensor, skipped: Tensor | None = None) -> dict[str, Tensor]:
        """Add one batch's counts [codes]; returns `codebook_usage` in (0, 1] and `codebook_perplexity` in codes.

        A batch whose update was skipped (`skipped` is 1.0) counts in these figures and not in later ones.
        """
        latest = torch.cat([counts[None].to(self.counts.dtype), self.counts[:-1]])
        self.counts.copy_(latest if skipped is None else torch.where(skipped > 0, self.counts, latest))
        total = latest.sum(0)
        shares = total / total.sum()
        entropy = -torch.xlogy(shares, shares).sum()
        return {"codebook_usage": (total > 0).float().mean(), "codebook_perplexity": entropy.exp()}


def _check_codes(codes: NDArray[Any], vocabulary: int) -> None:
    if codes.ndim != 2:
        raise DataError(f"codes of shape {codes.shape}: expected [images, tokens]")
    if codes.size and (int(codes.min()) < 0 or int(codes.max()) >= vocabulary):
        raise DataError(f"codes from {int(codes.min())} to {int(codes.max())} outside a vocabulary of {vocabulary}")
