"""Mean and covariance of features as published: what a Fréchet distance compares, often without a count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vim_core.errors import DataError

Array = NDArray[np.float64]
TOLERANCE = 1e-6
"""Asymmetry and negative eigenvalues of a covariance, relative to its largest entry: more is no rounding of float32."""


@dataclass(frozen=True)
class Gaussian:
    """`mean` [D] and unbiased `covariance` [D, D] in float64; `count` is None where the file does not tell it."""

    mean: Array
    covariance: Array
    count: int | None = None

    @property
    def dim(self) -> int:
        """Dimension D of the vectors."""
        return int(self.mean.shape[0])


def checked_gaussian(
    mean: NDArray[np.floating], covariance: NDArray[np.floating], count: int | None, where: str
) -> Gaussian:
    """A Gaussian from arrays of any float type; the covariance is made exactly symmetric.

    Raises `DataError` naming `where` for shapes that do not fit, values that are not finite, and matrices that no
    features can have as their covariance.
    """
    mu, sigma = np.asarray(mean), np.asarray(covariance)
    floats = all(np.issubdtype(each.dtype, np.floating) for each in (mu, sigma))
    if not floats or mu.ndim != 1 or sigma.shape != (mu.size, mu.size) or not mu.size:
        kinds = f"{mu.dtype} {mu.shape} and {sigma.dtype} {sigma.shape}"
        raise DataError(f"{where}: mu and sigma are {kinds}: expected floats of shapes [D] and [D, D]")
    mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise DataError(f"{where}: mu or sigma holds values that are not finite")
    scale = float(np.abs(sigma).max())
    if float(np.abs(sigma - sigma.T).max()) > TOLERANCE * scale or float(np.diag(sigma).min()) < -TOLERANCE * scale:
        raise DataError(f"{where}: sigma is no covariance: it is not symmetric, or a variance is negative")
    sigma = (sigma + sigma.T) / 2
    if count is not None and count < 2:
        raise DataError(f"{where}: statistics of {count} images have no covariance: at least 2 are needed")
    return Gaussian(mu, sigma, count)
