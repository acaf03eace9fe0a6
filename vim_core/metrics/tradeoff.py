"""Intervals of figures over a grid of sampling settings, and the location of the smallest distance along it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from vim_core.data.sample_order import keyed_rng
from vim_core.errors import DataError
from vim_core.metrics.frechet import Moments
from vim_core.metrics.inception_score import ScoreSums

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


def wilson(hits: int, count: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval (1927) of `hits` among `count` independent trials; exactly 0 or 1 where none or all hit.

    `intervals.wilson_interval` is the same at 95 % but for the last bits, which score's figures keep.
    """
    if not 0 <= hits <= count or count < 1:
        raise DataError(f"{hits} of {count} is not a share")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = hits / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * sqrt(share * (1 - share) / count + spread / count / 4)
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == count else middle + half)


def stratified_resamples(seed: int, number: int, classes: int, count: int) -> Rows:
    """Rows [number, classes * count] of resampled sets of images that lie class by class, `count` of each.

    Classes keep their size, as sampling gives them. Resample b is a pure function of (seed, b) and of the sizes, so
    that all points of a grid are resampled alike: what they share through common noise stays shared.
    """
    drawn = [keyed_rng("tradeoff resample", seed, b).integers(0, count, (classes, count)) for b in range(number)]
    first = np.arange(classes)[:, None] * count
    return np.stack([(rows + first).ravel() for rows in drawn]) if drawn else np.empty((0, classes * count), np.int64)


def resampled_distances(features: NDArray[np.floating], rows: Rows, reference: Moments) -> Array:
    """Fréchet distance [number] to the reference of each resample of features [N, D]; rows [number, N].

    As `frechet_distance`, with the reference decomposed once: tr (A B)^(1/2) is the sum of the roots of the
    eigenvalues of R^T A R for R R^T = B.
    """
    features, covariance = np.asarray(features, np.float64), reference.covariance
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.clip(values, 0.0, None))  # [D, D]
    distances = np.empty(len(rows))
    for number, chosen in enumerate(rows):
        sample = Moments.from_batch(features[chosen])
        cross = np.sqrt(np.clip(np.linalg.eigvalsh(root.T @ sample.covariance @ root), 0.0, None)).sum()
        means = float(np.sum((sample.mean - reference.mean) ** 2))
        traces = float(np.trace(sample.covariance) + np.trace(covariance))
        distances[number] = max(means + traces - 2.0 * float(cross), 0.0)
    return distances


def resampled_inception_scores(logits: NDArray[np.floating], rows: Rows) -> Array:
    """Inception Score [number] in one split of each resample of logits [N, C]; rows [number, N]."""
    split = np.zeros(rows.shape[1], np.int64)
    return np.array([ScoreSums.from_batch(logits[chosen], split, 1).score()[0] for chosen in rows])


def centred_bootstrap_interval(value: float, resampled: Array, confidence: float) -> tuple[float, float] | None:
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
    """The value of a setting at which a figure is smallest.

    `value` is the best by the figures themselves, `low` to `high` the interval of the resamples' best, `shares` the
    share of resamples with their best at each value. `inside` says that neither end of the tried values lies in the
    interval: a best value at an end may lie beyond it.
    """

    value: float
    low: float
    high: float
    shares: dict[float, float]
    inside: bool


def locate_minimum(
    settings: Sequence[float], figures: Sequence[float], resampled: Array, confidence: float
) -> Location:
    """The setting with the smallest figure, with the interval of its location.

    Each resample's figures are shifted by the bootstrap's bias at their setting (see `centred_bootstrap_interval`); the
    settings where they are smallest make the interval, whose ends are among `settings`.

    Args:
        settings: different values at which the figure was measured, [K].
        figures: the figure there, [K].
        resampled: the figure of each resample there, [K, number], resampled alike; number may be 0.

    Raises:
        DataError: numbers of settings, figures and rows differ, or are 0.
    """
    if not len(settings) == len(figures) == len(resampled) or not settings:
        raise DataError(f"{len(settings)} settings, {len(figures)} figures and {len(resampled)} rows of resamples")
    order = np.argsort(np.asarray(settings, np.float64))
    tried, figure = np.asarray(settings, np.float64)[order], np.asarray(figures, np.float64)[order]
    best = float(tried[figure.argmin()])
    if not resampled.size:
        return Location(best, best, best, {}, bool(tried[0] < best < tried[-1]))
    centred = resampled[order] - resampled[order].mean(axis=1, keepdims=True) + figure[:, None]  # [K, number]
    winners = centred.argmin(axis=0)  # [number]
    shares = np.bincount(winners, minlength=len(tried)) / len(winners)
    ends = np.quantile(winners, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf")
    low, high = (float(tried[int(end)]) for end in ends)
    inside = bool(tried[0] < low and high < tried[-1])
    return Location(best, low, high, dict(zip(tried.tolist(), shares.tolist(), strict=True)), inside)
