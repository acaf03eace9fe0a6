"""KID: the squared maximum mean discrepancy of two feature sets under a polynomial kernel (Bińkowski et al. 2018)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vim_core.errors import DataError
from vim_core.metrics.neighbours import ROWS, check_dimensions

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020
"""torch-fidelity's defaults."""

DEGREE, CONSTANT = 3, 1.0


def kernel_distance(
    generated: NDArray[Any], real: NDArray[Any], subsets: int = SUBSETS, size: int = SUBSET_SIZE
) -> float:
    """Mean of KID over random subsets of both sides, [M, D] and [N, D].

    Kernel (x·y / D + 1)^3, unbiased estimate, in float64; one subset of each side is in memory as float64 at a time.
    The subsets are those of torch-fidelity: numpy's RandomState(SEED), `choice` without replacement on the generated
    side, then on the real one. Equal distributions score 0 on average, so a value may be a little negative. Raises
    `DataError` for unequal dimensions and for sides smaller than a subset.
    """
    check_dimensions(generated, real)
    if min(len(generated), len(real)) < size or size < 2:
        raise DataError(
            f"KID takes subsets of {size} images (2 at least) and there are {len(generated)} and {len(real)}: compare "
            "more images, and raise statistics.features"
        )
    random = np.random.RandomState(SEED)
    values = np.zeros(subsets)
    for index in range(subsets):
        x = generated[random.choice(len(generated), size, replace=False)]
        y = real[random.choice(len(real), size, replace=False)]
        values[index] = unbiased_mmd2(x, y)
    return float(values.mean())


def unbiased_mmd2(x: NDArray[Any], y: NDArray[Any]) -> float:
    """The unbiased estimate of the squared discrepancy of two sets of vectors [m, D] and [n, D]."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    within = 0.0
    for side in (x, y):
        kernel, count = _kernel(side, side), len(side)
        within += float((kernel.sum() - np.trace(kernel)) / (count * (count - 1)))
    return float(within - 2 * _kernel(x, y).mean())


def _kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    kernel: NDArray[np.float64] = (x @ y.T / x.shape[1] + CONSTANT) ** DEGREE
    return kernel


def leave_one_group_out(x: NDArray[Any], y: NDArray[Any], groups: int, block: int = ROWS) -> list[float]:
    """Unbiased estimates [groups] that each leave one group of both sides out, for the jackknife; one kernel pass.

    Row i of either side is in group i mod `groups`; `block` rows of the kernel are in memory at a time. Raises
    `DataError` where a side has fewer than two vectors a group.
    """
    if min(len(x), len(y)) < 2 * groups:
        raise DataError(f"{groups} groups of {len(x)} and {len(y)} vectors: at least two a group are needed")
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    within = [_group_sums(side, side, groups, block) for side in (x, y)]
    for sums, side in zip(within, (x, y), strict=True):
        diagonal = (np.square(side).sum(axis=1) / side.shape[1] + CONSTANT) ** DEGREE  # kernel of a vector with itself
        sums[np.diag_indices(groups)] -= np.bincount(np.arange(len(side)) % groups, diagonal, groups)
    across = _group_sums(x, y, groups, block)
    counts = [np.bincount(np.arange(len(side)) % groups, minlength=groups) for side in (x, y)]
    estimates = []
    for group in range(groups):
        m, n = (len(side) - count[group] for side, count in zip((x, y), counts, strict=True))
        xx, yy, xy = (
            float(sums.sum() - sums[group].sum() - sums[:, group].sum() + sums[group, group])
            for sums in (*within, across)
        )
        estimates.append(float(xx / (m * (m - 1)) + yy / (n * (n - 1)) - 2 * xy / (m * n)))
    return estimates


def _group_sums(x: NDArray[np.float64], y: NDArray[np.float64], groups: int, block: int) -> NDArray[np.float64]:
    """Sums [groups, groups] of the kernel over all pairs of x [m, D] and y [n, D], by the groups of both."""
    membership = (np.arange(len(y))[:, None] % groups == np.arange(groups)).astype(np.float64)  # [n, groups]
    total = np.zeros((groups, groups))
    for start in range(0, len(x), block):
        part = _kernel(x[start : start + block], y) @ membership
        np.add.at(total, np.arange(start, start + len(part)) % groups, part)
    return total
