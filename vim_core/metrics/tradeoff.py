"""Intervals of the figures at the points of a sweep, and where along it a distance is smallest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from vim_core.data.sample_order import keyed_rng
from vim_core.errors import DataError
from vim_core.metrics.inception_score import ScoreSums
from vim_core.metrics.moments import Moments

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


def wilson(hits: int, count: int, confidence: float) -> tuple[float, float]:
    """Interval of a share of independent trials (Wilson 1927): honest near 0 and 1, and for few trials."""
    if not 0 <= hits <= count or count < 1:
        raise DataError(f"{hits} of {count} is no share")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = hits / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * sqrt(share * (1 - share) / count + spread / count / 4)
    # exactly the ends where all or none hit, which rounding would miss
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == count else middle + half)


def resamples(seed: int, number: int, classes: int, count: int) -> Rows:
    """Rows [number, classes * count] of resampled sets of images that lie class by class, `count` of each.

    Classes keep their size, as sampling gives them. Resample b is a pure function of (seed, b) and of the sizes, so
    that the points of a sweep are resampled alike: what they share through common noise stays shared.
    """
    drawn = [keyed_rng("tradeoff resample", seed, b).integers(0, count, (classes, count)) for b in range(number)]
    first = np.arange(classes)[:, None] * count
    return np.stack([(rows + first).ravel() for rows in drawn]) if drawn else np.empty((0, classes * count), np.int64)


def distances(features: NDArray[np.floating], rows: Rows, reference: Moments) -> Array:
    """Fréchet distance [number] to the reference of each resample of features [N, D]; rows [number, N].

    As `frechet_distance`, with the reference taken apart once: tr (A B)^(1/2) is the sum of the roots of the
    eigenvalues of R^T A R for R R^T = B.
    """
    wide, covariance = np.asarray(features, np.float64), reference.covariance
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.clip(values, 0.0, None))
    found = np.empty(len(rows))
    for place, chosen in enumerate(rows):
        own = Moments.from_batch(wide[chosen])
        cross = np.sqrt(np.clip(np.linalg.eigvalsh(root.T @ own.covariance @ root), 0.0, None)).sum()
        apart = float(np.sum((own.mean - reference.mean) ** 2))
        found[place] = max(apart + float(np.trace(own.covariance) + np.trace(covariance)) - 2.0 * float(cross), 0.0)
    return found


def inception_scores(logits: NDArray[np.floating], rows: Rows) -> Array:
    """Inception Score [number] in one split of each resample of logits [N, C]; rows [number, N]."""
    one = np.zeros(rows.shape[1], np.int64)
    return np.array([ScoreSums.from_batch(logits[chosen], one, 1).score()[0] for chosen in rows])


def around(value: float, resampled: Array, confidence: float) -> tuple[float, float] | None:
    """Bootstrap interval of a figure at this number of images; None without resamples.

    The spread of the resamples around their own mean is put around the figure. A resample holds fewer different
    images, which biases distances up beyond the figure's own bias: their plain quantiles may leave the figure out.
    """
    if not resampled.size:
        return None
    low, high = np.quantile(resampled - resampled.mean(), [(1 - confidence) / 2, (1 + confidence) / 2])
    return max(value + min(float(low), 0.0), 0.0), value + max(float(high), 0.0)


@dataclass(frozen=True)
class Location:
    """Where a figure is smallest along a sweep.

    `place` is the best by the figures themselves, `low` to `high` the interval of the resamples' best, `shares` how
    often each place is the best of a resample. `inside` says that neither end of the sweep lies in the interval: a best
    place at an end may lie beyond it.
    """

    place: float
    low: float
    high: float
    shares: dict[float, float]
    inside: bool


def smallest(places: Sequence[float], values: Sequence[float], resampled: Array, confidence: float) -> Location:
    """The place of the smallest value, with the interval of its location.

    Each resample's figures are shifted by the bootstrap's bias at their place (see `around`); the places where they are
    smallest make the interval, whose ends are places of the sweep.

    Args:
        places: where the figure was measured, different.
        values: the figure there, [K].
        resampled: the figure of each resample there, [K, number], resampled alike; number may be 0.

    Raises:
        DataError: numbers of places, values and rows differ, or are none.
    """
    if not len(places) == len(values) == len(resampled) or not places:
        raise DataError(f"{len(places)} places, {len(values)} values and {len(resampled)} rows of resamples")
    order = np.argsort(np.asarray(places, np.float64))
    where, figure = np.asarray(places, np.float64)[order], np.asarray(values, np.float64)[order]
    if not resampled.size:
        best = float(where[figure.argmin()])
        return Location(best, best, best, {}, bool(where[0] < best < where[-1]))
    centred = resampled[order] - resampled[order].mean(axis=1, keepdims=True) + figure[:, None]
    winners = centred.argmin(axis=0)
    shares = np.bincount(winners, minlength=len(where)) / len(winners)
    ends = np.quantile(winners, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf")
    low, high = (float(where[int(end)]) for end in ends)
    inside = bool(where[0] < low and high < where[-1])
    return Location(
        float(where[figure.argmin()]), low, high, dict(zip(where.tolist(), shares.tolist(), strict=True)), inside
    )
