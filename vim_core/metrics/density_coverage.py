"""Density and coverage (Naeem et al. 2020): precision and recall that outliers and copies sway less."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vim_core.errors import DataError
from vim_core.metrics.distances import neighbour_radii, squared_distances

NEIGHBOURS = 5
"""k of the paper's experiments."""


def density_coverage(
    real: NDArray[Any], made: NDArray[Any], neighbours: int = NEIGHBOURS
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Of generated features [M, D] against real ones [N, D]: each generated vector's density, each real one covered?

    The mean of the first [M] is density (1 where both sides are one distribution, it may exceed 1), of the second [N]
    coverage in [0, 1]. A ball reaches from a real vector to its k-th nearest real neighbour; as in the authors' code,
    vectors on its surface are outside. Distances are float64. Raises `DataError` for unequal dimensions and for fewer
    real vectors than neighbours.
    """
    x, y = np.asarray(real, np.float64), np.asarray(made, np.float64)
    if x.shape[1:] != y.shape[1:]:
        raise DataError(f"features of shapes {x.shape} and {y.shape} do not compare: they come from two networks")
    if len(x) <= neighbours or not len(y):
        raise DataError(
            f"density and coverage need more than {neighbours} real images and a sample: {len(x)}, {len(y)}"
        )
    reach = neighbour_radii(x, neighbours)
    density, covered = [], np.zeros(len(x), bool)
    for tile in squared_distances(y, x):
        inside = tile < reach
        density.append(inside.sum(axis=1) / neighbours)
        covered |= inside.any(axis=0)
    return np.concatenate(density), covered
