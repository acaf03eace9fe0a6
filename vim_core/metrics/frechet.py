"""Mean and covariance of feature vectors, and the Fréchet distance between two of them, the formula behind FID.

`Moments` merge in any order; `Gaussian` has only what the distance needs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vim_core.errors import DataError
from vim_core.metrics import npz

Array = NDArray[np.float64]
ARRAYS = {"count": ("int64", 0), "mean": ("float64", 1), "m2": ("float64", 2)}
KIND = "a moments file: run statistics again"
TOLERANCE = 1e-6
"""Asymmetry and negative eigenvalues of a covariance, relative to its largest entry, that rounding to float32 makes."""


@dataclass(frozen=True)
class Gaussian:
    """`mean` [D] and unbiased `covariance` [D, D] in float64; `count` is None where a file does not state it."""

    mean: Array
    covariance: Array
    count: int | None = None

    @property
    def dim(self) -> int:
        """Dimension D of the vectors."""
        return int(self.mean.shape[0])


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

    def gaussian(self) -> Gaussian:
        """Mean, covariance and count. Raises `DataError` below two vectors."""
        return Gaussian(self.mean, self.covariance, self.count)

    @staticmethod
    def empty(dim: int) -> Moments:
        """Moments of no vectors: merging them changes nothing."""
        return Moments(0, np.zeros(dim), np.zeros((dim, dim)))

    @staticmethod
    def from_batch(features: Any) -> Moments:
        """Moments of features [N, D], a numpy array or torch tensor of any float type.

        Raises `DataError` for another shape or values that are not finite.
        """
        if hasattr(features, "detach"):  # a torch tensor; float64 first, because numpy has no bfloat16
            features = features.detach().cpu().double().numpy()
        batch = np.asarray(features, dtype=np.float64)
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
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        between = np.outer(shift, shift) * (self.count * (other.count / count))
        return Moments(count, mean, self.m2 + other.m2 + between)

    def without(self, part: Moments) -> Moments:
        """Moments of the rest, where `part` are of some of these vectors; the inverse of `merge` up to rounding.

        Raises `DataError` where the dimensions differ or nothing is left.
        """
        count = self.count - part.count
        if self.dim != part.dim or count < 1:
            raise DataError(f"{part.count} vectors of dimension {part.dim} are no part of {self.count} of {self.dim}")
        mean = self.mean + (self.mean - part.mean) * (part.count / count)
        shift = part.mean - mean
        between = np.outer(shift, shift) * (count * (part.count / self.count))
        return Moments(count, mean, self.m2 - part.m2 - between)

    def to_bytes(self) -> bytes:
        """An npz file with count, mean and m2; equal moments give equal bytes."""
        return npz.pack(count=np.int64(self.count), mean=self.mean, m2=self.m2)

    @staticmethod
    def from_bytes(data: bytes) -> Moments:
        """Read what `to_bytes` wrote. Raises `DataError` for anything else."""
        arrays = npz.unpack_checked(data, ARRAYS, KIND)
        count, mean, m2 = int(arrays["count"]), arrays["mean"], arrays["m2"]
        if count < 0 or m2.shape != (mean.size, mean.size):
            raise DataError(f"not {KIND} (count {count}, shapes {mean.shape}, {m2.shape})")
        return Moments(count, mean, m2)


log = logging.getLogger(__name__)


def frechet_distance(a: Moments | Gaussian, b: Moments | Gaussian, *, quick: bool = False) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), in squared feature units (Heusel et al. 2017, eq. 6).

    The trace of (A B)^(1/2) is the sum of the singular values of Fb^T Fa for any factors Fa Fa^T = A and Fb Fb^T = B.
    Nothing complex arises and rank-deficient covariances need no offset on the diagonal. Warns where a set has no more
    vectors than dimensions, or does not tell how many and its covariance lacks rank. With `quick`, for intervals,
    nothing warns and eigenvalues stand for singular values, which is faster and good to 1e-6 of the traces. Raises
    `DataError` below two vectors, for unequal dimensions and for a matrix with clearly negative eigenvalues.
    """
    if a.dim != b.dim:
        raise DataError(f"features of dimension {a.dim} and {b.dim} do not compare: they come from two networks")
    for side in (a, b):
        if not quick and side.count is not None and 2 <= side.count <= a.dim:
            log.warning(
                "Fréchet distance of %d images in %d dimensions is biased high: compare it with distances of as many "
                "images alone, or use more (sample.count, select.count; more held-out images)", side.count, a.dim,
            )  # fmt: skip
    means = float(np.sum((a.mean - b.mean) ** 2))
    cov_a, cov_b = a.covariance, b.covariance
    factor = _factor(cov_b, b.count, quick)
    if quick:
        cross = np.sqrt(np.clip(np.linalg.eigvalsh(factor.T @ cov_a @ factor), 0.0, None)).sum()
    else:
        cross = np.linalg.svd(factor.T @ _factor(cov_a, a.count, quick), compute_uv=False).sum()
    return max(means + float(np.trace(cov_a) + np.trace(cov_b) - 2.0 * cross), 0.0)


def _factor(matrix: Array, count: int | None, quick: bool) -> Array:
    """F [D, D] with F F^T the covariance: Cholesky's, or the symmetric root of one that lacks rank, far slower."""
    smallest = len(matrix) * np.finfo(np.float64).eps
    try:
        lower = np.asarray(np.linalg.cholesky(matrix), np.float64)
        if float(np.diag(lower).min()) ** 2 > smallest * float(np.diag(matrix).max()):
            return lower
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    if values[0] < -TOLERANCE * abs(values[-1]):
        raise DataError(f"a covariance has the eigenvalue {values[0]:.3g} beside {values[-1]:.3g}: it is none")
    rank = int((values > values[-1] * smallest).sum())
    if not quick and count is None and rank < len(values):
        log.warning(
            "Fréchet distance: statistics of unknown count have rank %d in %d dimensions; if that is for want of "
            "images, the distance is biased high",
            rank,
            len(values),
        )
    # rounding below zero counts as zero
    root: Array = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    return root
