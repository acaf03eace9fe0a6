"""KID: the squared maximum mean discrepancy of two feature sets under a polynomial kernel (Bińkowski et al. 2018)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vim_core.errors import DataError
from vim_core.metrics.distances import ROWS

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020
"""As torch-fidelity draws them by default."""

DEGREE, CONSTANT = 3, 1.0


def kernel_distance(
    made: NDArray[Any],
    real: NDArray[Any],
    subsets: int = SUBSETS,
    size: int = SUBSET_SIZE,
    seed: int = SEED,
) -> tuple[float, float]:
    """Mean and population standard deviation over random subsets of both sides, [M, D] and [N, D].

    Kernel (x·y / D + 1)^3, unbiased estimate, in float64; one subset of each side is in memory as float64 at a time.
    The subsets are those of torch-fidelity: numpy's RandomState(seed), `choice` without replacement on the generated
    side, then on the real one. Equal distributions score 0 on average, so a value may be a little negative. Raises
    `DataError` for unequal dimensions and for sides smaller than a subset.
    """
    if made.shape[1:] != real.shape[1:]:
        raise DataError(f"features of shapes {made.shape} and {real.shape} do not compare: they come from two networks")
    if min(len(made), len(real)) < size or size < 2:
        raise DataError(
            f"KID takes subsets of {size} images (2 at least) and there are {len(made)} and {len(real)}: raise "
            "statistics.features or set score.kid_subset lower"
        )
    stream = np.random.RandomState(seed)
    values = np.zeros(subsets)
    for index in range(subsets):
        x = made[stream.choice(len(made), size, replace=False)]
        y = real[stream.choice(len(real), size, replace=False)]
        values[index] = unbiased_mmd2(x, y)
    return float(values.mean()), float(values.std())


def unbiased_mmd2(x: NDArray[Any], y: NDArray[Any]) -> float:
    """The unbiased estimate of the squared discrepancy of two sets of vectors [m, D] and [n, D]."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    within = [_off_diagonal(_kernel(side, side)) for side in (x, y)]
    return float(sum(within) - 2 * _kernel(x, y).mean())


def _kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    kernel: NDArray[np.float64] = (x @ y.T / x.shape[1] + CONSTANT) ** DEGREE
    return kernel


def _off_diagonal(kernel: NDArray[np.float64]) -> float:
    count = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (count * (count - 1)))


def leave_one_group_out(x: NDArray[Any], y: NDArray[Any], groups: int, block: int = ROWS) -> list[float]:
    """The unbiased estimates of all vectors but one group a side each, for the jackknife; in one pass over the kernel.

    Row i of either side is in group i mod `groups`; `block` rows of the kernel are in memory at a time. Raises
    `DataError` where a side has fewer than two vectors a group.
    """
    if min(len(x), len(y)) < 2 * groups:
        raise DataError(f"{groups} groups of {len(x)} and {len(y)} vectors: at least two a group are needed")
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    within = [_group_sums(side, side, groups, block) for side in (x, y)]
    for sums, side in zip(within, (x, y), strict=True):
        own = (np.square(side).sum(axis=1) / side.shape[1] + CONSTANT) ** DEGREE
        sums[np.diag_indices(groups)] -= np.bincount(np.arange(len(side)) % groups, own, groups)
    across = _group_sums(x, y, groups, block)
    counts = [np.bincount(np.arange(len(side)) % groups, minlength=groups) for side in (x, y)]
    found = []
    for group in range(groups):
        m, n = (len(side) - count[group] for side, count in zip((x, y), counts, strict=True))
        xx, yy, xy = (_left(sums, group) for sums in (*within, across))
        found.append(float(xx / (m * (m - 1)) + yy / (n * (n - 1)) - 2 * xy / (m * n)))
    return found


def _group_sums(x: NDArray[np.float64], y: NDArray[np.float64], groups: int, block: int) -> NDArray[np.float64]:
    """Sums [groups, groups] of the kernel over all pairs of a vector of x and one of y, by their groups."""
    columns = (np.arange(len(y))[:, None] % groups == np.arange(groups)).astype(np.float64)
    total = np.zeros((groups, groups))
    for start in range(0, len(x), block):
        part = _kernel(x[start : start + block], y) @ columns
        np.add.at(total, np.arange(start, start + len(part)) % groups, part)
    return total


def _left(sums: NDArray[np.float64], group: int) -> float:
    return float(sums.sum() - sums[group].sum() - sums[:, group].sum() + sums[group, group])
