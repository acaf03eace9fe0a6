"""Count, mean and scatter of feature vectors: batches become moments, moments merge in any order."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vim_core.errors import DataError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Moments of `count` vectors of dimension D: `mean` [D] and `m2` [D, D], the sum of outer products of deviations.

    Everything is float64 around the mean, so that large offsets cost no digits (Chan, Golub, LeVeque 1979).
    """

    count: int
    mean: Array
    m2: Array

    @property
    def dim(self) -> int:
        """Dimension D of the vectors."""
        return int(self.mean.shape[0])

    @property
    def covariance(self) -> Array:
        """Unbiased covariance [D, D] (divided by count - 1). Raises `DataError` below two vectors."""
        if self.count < 2:
            raise DataError(f"a covariance needs at least 2 vectors, got {self.count}: use more images")
        return self.m2 / (self.count - 1)

    @staticmethod
    def empty(dim: int) -> Moments:
        """Moments of no vectors: merging them changes nothing."""
        return Moments(0, np.zeros(dim), np.zeros((dim, dim)))

    @staticmethod
    def from_batch(features: Any) -> Moments:
        """Moments of features [N, D], a numpy array or torch tensor of any float type.

        Raises `DataError` for another shape or values that are not finite.
        """
        batch = _as_float64(features)
        if batch.ndim != 2:
            raise DataError(f"features of shape {batch.shape}: expected [images, dimensions]")
        if batch.shape[0] == 0:
            return Moments.empty(batch.shape[1])
        if not np.isfinite(batch).all():
            rows = np.flatnonzero(~np.isfinite(batch).all(axis=1))
            raise DataError(f"features of {rows.size} images are not finite, first at row {rows[0]} of the batch")
        mean = batch.mean(axis=0)
        centred = batch - mean
        return Moments(batch.shape[0], mean, centred.T @ centred)

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets together. Raises `DataError` where the dimensions differ."""
        if self.dim != other.dim:
            raise DataError(f"moments of dimension {self.dim} and {other.dim} do not merge: two networks made them")
        if self.count == 0 or other.count == 0:
            return self if other.count == 0 else other
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        between = np.outer(step, step) * (self.count * (other.count / count))
        return Moments(count, mean, self.m2 + other.m2 + between)

    def without(self, part: Moments) -> Moments:
        """Moments of the rest, where `part` are of some of these vectors; the inverse of `merge` up to rounding.

        Raises `DataError` where the dimensions differ or nothing is left.
        """
        count = self.count - part.count
        if self.dim != part.dim or count < 1:
            raise DataError(f"{part.count} vectors of dimension {part.dim} are no part of {self.count} of {self.dim}")
        mean = self.mean + (self.mean - part.mean) * (part.count / count)
        step = part.mean - mean
        between = np.outer(step, step) * (count * (part.count / self.count))
        return Moments(count, mean, self.m2 - part.m2 - between)

    def to_bytes(self) -> bytes:
        """An npz file with count, mean and m2; equal moments give equal bytes."""
        stream = io.BytesIO()
        np.savez(stream, count=np.int64(self.count), mean=self.mean, m2=self.m2)
        return stream.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> Moments:
        """Read what `to_bytes` wrote. Raises `DataError` for anything else."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                count, mean, m2 = int(file["count"]), file["mean"], file["m2"]
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"not a moments file ({error}): run statistics again") from error
        shapes = mean.ndim == 1 and m2.shape == (mean.size, mean.size)
        if count < 0 or not shapes or mean.dtype != np.float64 or m2.dtype != np.float64:
            raise DataError(
                f"not a moments file (count {count}, shapes {mean.shape}, {m2.shape}): run statistics again"
            )
        return Moments(count, mean, m2)


def merge_all(parts: Iterable[Moments]) -> Moments:
    """Moments of all parts together, pairwise as a balanced tree. Raises `DataError` for no parts."""
    level = list(parts)
    if not level:
        raise DataError("no moments to merge: the split has no images")
    while len(level) > 1:
        pairs = [level[i].merge(level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + (level[-1:] if len(level) % 2 else [])
    return level[0]


def _as_float64(features: Any) -> Array:
    if hasattr(features, "detach"):  # a torch tensor; float64 first, because numpy has no bfloat16
        features = features.detach().cpu().double().numpy()
    return np.asarray(features, dtype=np.float64)
