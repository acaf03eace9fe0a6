"""Intervals against scipy and statsmodels' formulas, and by how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vim_core.errors import DataError
from vim_core.metrics.feature_statistics import merge_all
from vim_core.metrics.frechet import Moments, frechet_distance
from vim_core.metrics.intervals import (
    bootstrap_interval,
    jackknife_interval,
    student_interval,
    student_quantile,
    wilson_interval,
)


@pytest.mark.parametrize("freedom", [1, 2, 5, 10, 11, 15, 19, 30, 100, 5000])
def test_student_equals_scipy(freedom: int) -> None:
    for confidence in (0.5, 0.95, 0.99):
        expected = stats.t.ppf((1 + confidence) / 2, freedom)
        assert student_quantile(freedom, confidence) == pytest.approx(expected, abs=2e-4)
    assert student_quantile(freedom) == student_quantile(freedom, 0.95)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
@pytest.mark.parametrize(("successes", "count"), [(0, 10), (3, 10), (10, 10), (987, 1000)])
def test_shares_equal_scipys_wilson(successes: int, count: int, confidence: float) -> None:
    expected = stats.binomtest(successes, count).proportion_ci(confidence, method="wilson")
    assert wilson_interval(successes, count, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_bootstrap_of_a_mean_is_near_the_normal_interval_and_repeats() -> None:
    values = np.random.default_rng(0).exponential(size=2000)
    low, high = bootstrap_interval(values)
    error = values.std(ddof=1) / np.sqrt(2000)
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.15 * error)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval([2.0, 2.0]) == (2.0, 2.0)


def test_intervals_of_parts_are_those_of_a_t_test() -> None:
    parts = np.random.default_rng(1).normal(size=12)
    expected = stats.ttest_1samp(parts, 0).confidence_interval(0.95)
    assert student_interval(float(parts.mean()), parts) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_the_jackknife_of_a_mean_is_its_t_interval() -> None:
    """For a mean of equal groups the jackknife error is that of the groups' means, in closed form."""
    groups = np.random.default_rng(2).normal(size=(15, 40))
    without = [float(np.delete(groups, group, axis=0).mean()) for group in range(15)]
    assert jackknife_interval(float(groups.mean()), without) == pytest.approx(
        student_interval(float(groups.mean()), groups.mean(axis=1)), rel=1e-9
    )


def test_the_jackknife_holds_a_frechet_distance_as_often_as_it_says() -> None:
    """The truth: mean distances over many draws, so that the bias of few images is in it on both sides."""
    real = Moments.from_batch(np.random.default_rng(3).normal(size=(2000, 4)))
    values, held = [], []
    for seed in range(60):
        made = np.random.default_rng(100 + seed).normal(size=(400, 4)) * 1.3 + 0.3
        groups = [Moments.from_batch(part) for part in np.array_split(made, 20)]
        without = [merge_all([*groups[:index], *groups[index + 1 :]]) for index in range(20)]
        values.append(frechet_distance(merge_all(groups), real))
        held.append(jackknife_interval(values[-1], [frechet_distance(most, real, quick=True) for most in without]))
    truth = np.mean(values)
    assert 0.88 <= np.mean([low <= truth <= high for low, high in held]) <= 1.0
    widths = np.mean([high - low for low, high in held]) / (2 * 1.96 * np.std(values))
    assert 0.8 < widths < 1.4


def test_nothing_to_take_an_interval_from_is_refused() -> None:
    with pytest.raises(DataError, match="at least two groups"):
        student_interval(1.0, [1.0])
