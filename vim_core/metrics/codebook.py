"""How much of a codebook is in use: share of codes per batch of images (paper Table 4), perplexity, spread."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vim_core.errors import DataError


def usage(codes: NDArray[Any], vocabulary: int, batch: int = 256) -> float:
    """Share of the vocabulary found in a batch of images, in (0, 1], averaged over the full batches of codes [N, T].

    The paper's definition (caption of Table 4): distinct codes of 256 test images, over the whole test set. Images
    beyond the last full batch are left out, because a smaller batch would count lower. Raises `DataError` for fewer
    images than one batch and for codes outside the vocabulary.
    """
    counted = _checked(codes, vocabulary)
    return float(np.mean(usages(counted, vocabulary, batch)))


def usages(codes: NDArray[Any], vocabulary: int, batch: int = 256) -> list[float]:
    """The share of every full batch, whose mean `usage` is; raises as it does."""
    counted = _checked(codes, vocabulary)
    full = counted.shape[0] // batch
    if full == 0:
        raise DataError(
            f"codebook usage is defined on {batch} images and there are {counted.shape[0]}: hold out more test images"
            " or set score.usage_batch"
        )
    return [np.unique(counted[i * batch : (i + 1) * batch]).size / vocabulary for i in range(full)]


def histogram(codes: NDArray[Any], vocabulary: int) -> NDArray[np.int64]:
    """How often each code occurs in codes [N, T]: int64 [vocabulary]; histograms of parts add up."""
    return np.bincount(_checked(codes, vocabulary).reshape(-1), minlength=vocabulary).astype(np.int64)


def perplexity(counts: NDArray[Any]) -> float:
    """2^entropy of code counts [vocabulary]: how many codes, if all were used alike. Raises `DataError` for none."""
    total = counts.sum()
    if total <= 0:
        raise DataError("perplexity of no codes: the code table is empty")
    shares = counts[counts > 0] / total
    return float(np.exp2(-(shares * np.log2(shares)).sum()))


def spread(latents: NDArray[Any]) -> float:
    """How many dimensions latents [N, D] really fill, in [1, D]: e^entropy of the shares of variance of their axes.

    Usage does not show a codebook whose codes all lie on a line, and this does: it is D where the covariance is a
    multiple of the identity and 1 where one principal axis has all the variance (the effective rank of Roy and
    Vetterli 2007, of the covariance). Raises `DataError` for latents that do not vary.
    """
    eigenvalues = np.linalg.eigvalsh(
        np.cov(np.asarray(latents, dtype=np.float64), rowvar=False).reshape(-1, latents.shape[1])
    )
    variances = eigenvalues.clip(min=0.0)
    if variances.sum() <= 0:
        raise DataError(f"spread of {latents.shape[0]} latents that are all alike")
    shares = variances[variances > 0] / variances.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _checked(codes: NDArray[Any], vocabulary: int) -> NDArray[Any]:
    if codes.ndim != 2:
        raise DataError(f"codes of shape {codes.shape}: expected [images, tokens]")
    if codes.size and (int(codes.min()) < 0 or int(codes.max()) >= vocabulary):
        raise DataError(f"codes from {int(codes.min())} to {int(codes.max())} outside a vocabulary of {vocabulary}")
    return codes
