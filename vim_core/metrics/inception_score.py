"""Inception Score from sums that add up over batches, shards and machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vim_core.errors import DataError
from vim_core.metrics import npz
from vim_core.metrics.intervals import CONFIDENCE, Interval, student_quantile

Array = NDArray[np.float64]
ARRAYS = {"counts": ("int64", 1), "negentropy": ("float64", 1), "probabilities": ("float64", 2)}
KIND = "a file of Inception Score sums: run statistics again"


@dataclass(frozen=True)
class ScoreSums:
    """Sums over the class probabilities p of images in S splits and C classes, from which the score follows.

    `counts` [S] images, `negentropy` [S] the sum of p log p over images and classes, `probabilities` [S, C] the sum of
    p over images. Salimans et al. 2016: exp(mean KL(p || mean p)) = exp(mean p log p - mean p log mean p).
    """

    counts: NDArray[np.int64]
    negentropy: Array
    probabilities: Array

    @property
    def count(self) -> int:
        """Images in all splits."""
        return int(self.counts.sum())

    @staticmethod
    def empty(splits: int, classes: int) -> ScoreSums:
        """Sums over no images."""
        return ScoreSums(np.zeros(splits, np.int64), np.zeros(splits), np.zeros((splits, classes)))

    @staticmethod
    def from_batch(logits: Any, split: NDArray[Any], splits: int) -> ScoreSums:
        """Sums over logits [N, C], an array or tensor, whose image i is in split `split[i]` of 0 to splits - 1.

        Raises `DataError` for logits of another shape or not finite, and for split numbers outside the range.
        """
        if hasattr(logits, "detach"):
            logits = logits.detach().cpu().double().numpy()
        values = np.asarray(logits, dtype=np.float64)
        number = np.asarray(split, dtype=np.int64)
        if values.ndim != 2 or number.shape != values.shape[:1]:
            raise DataError(f"logits of shape {values.shape} and {number.shape} split numbers: expected one per row")
        if number.size and (number.min() < 0 or number.max() >= splits):
            raise DataError(f"split numbers from {number.min()} to {number.max()} outside {splits} splits")
        if not np.isfinite(values).all():
            raise DataError("logits are not finite: the network or its weights are damaged")
        shifted = values - values.max(axis=1, keepdims=True, initial=-np.inf)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        p = np.exp(log_p)
        member = (number[None] == np.arange(splits)[:, None]).astype(np.float64)
        return ScoreSums(np.bincount(number, minlength=splits), member @ (p * log_p).sum(axis=1), member @ p)

    def merge(self, other: ScoreSums) -> ScoreSums:
        """Sums over both sets. Raises `DataError` where splits or classes differ in number."""
        if self.probabilities.shape != other.probabilities.shape:
            shapes = f"{self.probabilities.shape} and {other.probabilities.shape}"
            raise DataError(f"score sums of shapes {shapes} (splits, classes) do not merge: two networks made them")
        return ScoreSums(
            self.counts + other.counts, self.negentropy + other.negentropy, self.probabilities + other.probabilities
        )

    def score(self) -> tuple[float, float]:
        """Mean and population standard deviation of the splits' scores. Raises `DataError` for an empty split."""
        if not self.counts.all():
            empty = int(np.flatnonzero(self.counts == 0)[0])
            raise DataError(
                f"Inception Score: split {empty} of {self.counts.size} has no image of {self.count}: "
                "use more images or set statistics.score_splits lower"
            )
        mean_p = self.probabilities / self.counts[:, None]
        positive = np.where(mean_p > 0, mean_p, 1.0)
        divergence = self.negentropy / self.counts - (mean_p * np.log(positive)).sum(axis=1)
        scores = np.exp(divergence)
        return float(scores.mean()), float(scores.std())

    def interval(self, confidence: float = CONFIDENCE) -> Interval | None:
        """The interval of the mean by Student's distribution over the splits; None for a single split."""
        splits = int(self.counts.size)
        if splits < 2:
            return None
        value, deviation = self.score()
        half = student_quantile(splits - 1, confidence) * deviation / (splits - 1) ** 0.5
        return value - half, value + half

    def to_bytes(self) -> bytes:
        """An npz file; equal sums give equal bytes."""
        return npz.pack(counts=self.counts, negentropy=self.negentropy, probabilities=self.probabilities)

    @staticmethod
    def from_bytes(data: bytes) -> ScoreSums:
        """Read what `to_bytes` wrote. Raises `DataError` for anything else."""
        arrays = npz.unpack_checked(data, ARRAYS, KIND)
        splits = arrays["counts"].shape
        if not splits == arrays["negentropy"].shape == arrays["probabilities"].shape[:1]:
            raise DataError(f"not {KIND} (the arrays differ in their number of splits)")
        return ScoreSums(**arrays)
