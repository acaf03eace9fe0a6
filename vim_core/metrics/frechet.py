"""Fréchet distance between two Gaussians, the formula behind FID."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from vim_core.errors import DataError
from vim_core.metrics.moments import TOLERANCE, Gaussian, Moments

log = logging.getLogger(__name__)
Array = NDArray[np.float64]


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
            log.warning("Fréchet distance of %d images in %d dimensions is biased high: use more", side.count, a.dim)
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
