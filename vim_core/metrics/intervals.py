"""Confidence intervals of figures over the choice of images; at 95 % unless another confidence is given."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vim_core.errors import DataError

Interval = tuple[float, float]

CONFIDENCE = 0.95
REPLICATES, SEED = 1000, 0
NORMAL = 1.959963984540054
"""97.5 % point of the normal distribution."""

STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
"""97.5 % points of Student's distribution for 1 to 10 degrees of freedom; beyond, an expansion is good to 1e-4."""

TILE = 1 << 22
"""Random numbers in memory at once."""


def student_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Half the width of the central interval of Student's distribution with this probability.

    At 95 % from a table, above ten degrees of freedom by Fisher and Cornish's expansion. Raises `DataError` below one.
    """
    if freedom < 1:
        raise DataError("a confidence interval needs at least two groups of images")
    if confidence != CONFIDENCE:
        from scipy.special import stdtrit

        return float(stdtrit(freedom, (1 + confidence) / 2))
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    z = NORMAL
    first = (z**3 + z) / (4 * freedom)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    return z + first + second + third


def bootstrap_interval(values: NDArray[Any] | Sequence[float]) -> Interval:
    """Percentile bootstrap of the mean of values [N]: resampled N at a time. Raises `DataError` for no values."""
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or not sample.size:
        raise DataError(f"a mean's interval needs one value per image, got shape {sample.shape}")
    random = np.random.default_rng(SEED)
    rows = max(1, TILE // sample.size)
    means = [
        sample[random.integers(sample.size, size=(min(rows, REPLICATES - start), sample.size))].mean(axis=1)
        for start in range(0, REPLICATES, rows)
    ]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


def wilson_interval(successes: int, count: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a share (1927), which stays inside [0, 1] and is not empty at 0 or 1."""
    if not 0 <= successes <= count or not count:
        raise DataError(f"{successes} of {count} is not a share")
    normal = NORMAL if confidence == CONFIDENCE else NormalDist().inv_cdf((1 + confidence) / 2)
    p, z2 = successes / count, normal**2
    centre = (p + z2 / (2 * count)) / (1 + z2 / count)
    half = normal / (1 + z2 / count) * float(np.sqrt(p * (1 - p) / count + z2 / (4 * count**2)))
    return max(0.0, centre - half), min(1.0, centre + half)


def student_interval(value: float, parts: Sequence[float] | NDArray[Any]) -> Interval:
    """By Student's distribution: around `value`, from the same figure on disjoint parts of the images."""
    quantile = student_quantile(len(parts) - 1)
    half = quantile * float(np.std(np.asarray(parts, np.float64), ddof=1)) / float(np.sqrt(len(parts)))
    return value - half, value + half


def jackknife_interval(value: float, without: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Delete-a-group jackknife (Quenouille 1956; Kott 2001) of a figure that has this value on all images.

    `without` are the figure on all images but those of one group each, of about equally many images. Suits smooth
    functions of moments, such as a Fréchet distance, where a bootstrap, which repeats images, would shift the value
    itself. Raises `DataError` below two groups.
    """
    groups, partial = len(without), np.asarray(without, np.float64)
    error = float(np.sqrt((groups - 1) / groups * np.square(partial - partial.mean()).sum()))
    half = student_quantile(groups - 1, confidence) * error
    return value - half, value + half
