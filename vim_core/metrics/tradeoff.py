"""The setting at which a distance is smallest, with the interval of its location."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vim_core.errors import DataError
from vim_core.metrics.intervals import SEED


@dataclass(frozen=True)
class Location:
    """The value of a setting at which a figure is smallest.

    `value` is the best by the figures themselves, `low` to `high` the interval of the draws' best, `shares` the share
    of draws with their best at each value. `inside` says that neither end of the tried values lies in the interval: a
    best value at an end may lie beyond it.
    """

    value: float
    low: float
    high: float
    shares: dict[float, float]
    inside: bool


def locate_minimum(
    settings: Sequence[float], figures: Sequence[float], without: NDArray[np.float64], draws: int, confidence: float
) -> Location:
    """The setting with the smallest figure, with the interval of its location.

    The figures of all settings are drawn together, from Student's distribution around those measured, with the
    covariance of the delete-a-group jackknife: the spread of each is that of `intervals.jackknife_interval`, and the
    spread of a difference is smaller where the same images make both figures better or worse. The settings where the
    draws are smallest make the interval, whose ends are among `settings`.

    Args:
        settings: different values at which the figure was measured, [K].
        figures: the figure there, [K].
        without: the figure there without one group of images each, the same groups for all settings, [K, groups].
        draws: number of draws. Without draws or groups nothing is known of the location: all values are in the
            interval.
        confidence: share of the draws that the interval holds.

    Raises:
        DataError: numbers of settings, figures and rows differ, or are 0.
    """
    if not len(settings) == len(figures) == len(without) or not settings:
        raise DataError(f"{len(settings)} settings, {len(figures)} figures and {len(without)} rows without a group")
    order = np.argsort(np.asarray(settings, np.float64))
    tried, figure = np.asarray(settings, np.float64)[order], np.asarray(figures, np.float64)[order]
    best, groups = float(tried[figure.argmin()]), without.shape[1]
    if not draws or groups < 2:
        return Location(best, float(tried[0]), float(tried[-1]), {}, inside=False)
    # a sum of the groups' deviations with normal weights has the jackknife's covariance
    deviations = (without[order] - without[order].mean(axis=1, keepdims=True)) * np.sqrt((groups - 1) / groups)
    rng = np.random.default_rng(SEED)
    weights = rng.standard_normal((groups, draws)) / np.sqrt(rng.chisquare(groups - 1, draws) / (groups - 1))
    winners = (figure[:, None] + deviations @ weights).argmin(axis=0)  # [draws]
    shares = np.bincount(winners, minlength=len(tried)) / draws
    ends = np.quantile(winners, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf")
    low, high = (float(tried[int(end)]) for end in ends)
    inside = bool(tried[0] < low and high < tried[-1])
    return Location(best, low, high, dict(zip(tried.tolist(), shares.tolist(), strict=True)), inside)
