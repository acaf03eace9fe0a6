"""Rejection sampling: of a growing set of candidates a class, a classifier keeps those it is surest of.

Acceptance rates follow Razavi et al. 2019 (VQ-VAE-2, section 3.3) and Esser et al. 2021, as in the paper's Table 6.
Every rate keeps the same number m of images a class, the best of the first m / rate candidates, so that figures at
different rates are figures of equally many images.
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
    """How many candidates a class are looked at to keep `count` of them: count / rate, rounded up.

    The rate is taken as it is written (0.05 is one in twenty), not as the nearest binary fraction.

    Raises:
        ConfigError: the rate lies outside (0, 1], or no image is to be kept.
    """
    if not 0 < rate <= 1:
        raise ConfigError(f"acceptance rate {rate}: must lie in (0, 1]")
    if count < 1:
        raise ConfigError(f"keep {count} images a class: must be positive")
    return ceil(count / Fraction(str(float(rate))))


def candidates_by_class(keys: Sequence[str], labels: NDArray[np.int64], classes: int) -> list[RowIndices]:
    """Rows of each class in the order in which candidates count: that of their keys.

    Args:
        keys: unique names of the candidates; samples carry their number in it, so a larger set only appends.
        labels: class wanted of each, int64 [N] in 0 to classes - 1.
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

    Within a class, the `count` highest scores among the first `pool(count, rate)` candidates; equal scores go to the
    smaller key. The order of the arguments' rows does not matter. At rate 1 the first `count` are kept unseen.

    Args:
        keys, labels, classes: as `candidates_by_class`.
        scores: the selector's probability of the class wanted, [N].

    Raises:
        ConfigError: a class has too few candidates; the message says how many samples there must be.
        DataError: a score is not finite, or labels or keys are not those of candidates.
    """
    if not np.isfinite(scores).all():
        raise DataError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores of the selector are not finite")
    members = candidates_by_class(keys, labels, classes)
    kept: dict[float, list[RowIndices]] = {}
    for rate in rates:
        needed = candidates_needed(count, rate)
        require_candidates(min(map(len, members), default=0), classes, count, rate)
        # stable: among equal scores the first by key stays first
        kept[rate] = [rows[:needed][np.argsort(-scores[rows[:needed]], kind="stable")[:count]] for rows in members]
    by_key = np.argsort(np.argsort(np.asarray(keys, dtype=object), kind="stable"), kind="stable")
    return {rate: _in_order(np.concatenate(rows), by_key) for rate, rows in kept.items()}


def require_candidates(available: int, classes: int, count: int, rate: float) -> None:
    """Raise `ConfigError` unless each class has the candidates that `rate` needs; `available` is the poorest's."""
    needed = candidates_needed(count, rate)
    if available < needed:
        raise ConfigError(
            f"to keep {count} images a class at rate {rate} takes {needed} candidates a class, there are {available}: "
            f"set sample.count to at least {needed * classes}, or keep fewer, or leave out the rate"
        )


def _in_order(rows: RowIndices, place: RowIndices) -> RowIndices:
    ordered: RowIndices = rows[np.argsort(place[rows])]
    return ordered
