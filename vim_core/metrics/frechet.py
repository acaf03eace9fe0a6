"""Fréchet distance between two Gaussians, the formula behind FID."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from vim_core.errors import DataError
from vim_core.metrics.moments import Moments

log = logging.getLogger(__name__)
Array = NDArray[np.float64]


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), in squared feature units (Heusel et al. 2017, eq. 6).

    The trace of (A B)^(1/2) is that of the symmetric (A^(1/2) B A^(1/2))^(1/2): the sum of the singular values of
    B^(1/2) A^(1/2). Nothing complex arises and rank-deficient covariances need no offset on the diagonal. Warns
    where a set has no more vectors than dimensions. Raises `DataError` below two vectors or for unequal dimensions.
    """
    if a.dim != b.dim:
        raise DataError(f"features of dimension {a.dim} and {b.dim} do not compare: they come from two networks")
    for side in (a, b):
        if 2 <= side.count <= a.dim:
            log.warning("Fréchet distance of %d images in %d dimensions is biased high: use more", side.count, a.dim)
    means = float(np.sum((a.mean - b.mean) ** 2))
    cov_a, cov_b = a.covariance, b.covariance
    cross = np.linalg.svd(_root(cov_b) @ _root(cov_a), compute_uv=False).sum()
    return max(means + float(np.trace(cov_a) + np.trace(cov_b) - 2.0 * cross), 0.0)


def _root(matrix: Array) -> Array:
    """Symmetric square root of a covariance [D, D]; rounding below zero counts as zero."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    root: Array = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    return root
