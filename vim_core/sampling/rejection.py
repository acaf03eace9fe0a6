"""Rejection sampling: from a growing set of candidates of each class, keep those with the highest class probability.

Acceptance rates follow Razavi et al. 2019 (VQ-VAE-2, section 3.3) and Esser et al. 2021, as in the paper's Table 6.
Every rate keeps the same number m of images per class, the best of the first m / rate candidates, so that metrics at
different rates are of equally many images.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil

import numpy as np
from numpy.typing import NDArray

from vim_core.errors import ConfigError, DataError

RowIndices = NDArray[np.int64]


def candidates_needed(count: int, rate: float) -> int:
    """Number of candidates per class from which `count` are kept: count / rate, rounded up.

    The rate is taken as a decimal (0.05 is one in twenty), not as the nearest binary fraction.

    Raises:
        ConfigError: the rate lies outside (0, 1], or `count` is not positive.
    """
    if not 0 < rate <= 1:
        raise ConfigError(f"acceptance rate {rate}: must lie in (0, 1]")
    if count < 1:
        raise ConfigError(f"keep {count} images a class: must be positive")
    return ceil(count / Fraction(str(float(rate))))


def candidates_by_class(keys: Sequence[str], labels: NDArray[np.int64], classes: int) -> list[RowIndices]:
    """Rows of the candidates of each class, in the order of their keys.

    Args:
        keys: unique names of the candidates; a sample's key has its number, so a larger set only appends.
        labels: requested class of each, int64 [N] in 0 to classes - 1.
        classes: number of classes.

    Raises:
        DataError: a label lies outside the classes, or a key occurs twice.
    """
    if len(set(keys)) != len(keys):
        raise DataError("candidates: the same key occurs twice, so there is no order to take them in")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError(f"candidates have labels from {labels.min()} to {labels.max()}, there are {classes} classes")
    by_key = np.argsort(np.asarray(keys, dtype=object), kind="stable").astype(np.int64)
    return [by_key[labels[by_key] == number] for number in range(classes)]


def accept(
    keys: Sequence[str],
    labels: NDArray[np.int64],
    scores: NDArray[np.floating],
    classes: int,
    count: int,
    rates: Sequence[float],
) -> dict[float, RowIndices]:
    """Rows kept at each rate, `count` of every class, in the order of their keys.

    Within a class, the `count` highest scores among the first `candidates_needed(count, rate)` candidates; equal scores
    go to the smaller key. The order of the rows does not matter. At rate 1 the first `count` are kept whatever their
    scores.

    Args:
        keys, labels, classes: as `candidates_by_class`.
        scores: the selector's probability of the requested class, [N].

    Raises:
        ConfigError: a class has too few candidates; the message says how many samples there must be.
        DataError: a score is not finite, or labels or keys are not those of candidates.
    """
    if not np.isfinite(scores).all():
        raise DataError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores of the selector are not finite")
    members = candidates_by_class(keys, labels, classes)
    kept: dict[float, RowIndices] = {}
    for rate in rates:
        needed = candidates_needed(count, rate)
        require_candidates(min(map(len, members), default=0), classes, count, rate)
        # Stable: among equal scores the first by key stays first.
        best = [rows[:needed][np.argsort(-scores[rows[:needed]], kind="stable")[:count]] for rows in members]
        kept[rate] = np.array(sorted(np.concatenate(best).tolist(), key=keys.__getitem__), dtype=np.int64)
    return kept


def require_candidates(available: int, classes: int, count: int, rate: float) -> None:
    """Raise `ConfigError` unless `available`, the number of candidates of the smallest class, is enough for `rate`."""
    needed = candidates_needed(count, rate)
    if available < needed:
        raise ConfigError(
            f"to keep {count} images a class at rate {rate} takes {needed} candidates a class, there are {available}: "
            f"set sample.count to at least {needed * classes}, or keep fewer, or leave out the rate"
        )
