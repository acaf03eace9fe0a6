"""Intervals of a sweep's figures against closed forms, scipy and plain recomputation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from vim_core.metrics.frechet import Moments, frechet_distance
from vim_core.metrics.inception_score import ScoreSums
from vim_core.metrics.tradeoff import (
    centred_bootstrap_interval,
    locate_minimum,
    resampled_distances,
    resampled_inception_scores,
    stratified_resamples,
    wilson,
)


@given(
    st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.5, 0.9, 0.95])
)
def test_wilson_is_scipys(case: tuple[int, int], confidence: float) -> None:
    hits, count = case
    expected = binomtest(hits, count).proportion_ci(confidence, method="wilson")
    assert wilson(hits, count, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_resamples_keep_the_size_of_every_class_and_depend_on_seed_and_number_alone() -> None:
    rows = stratified_resamples(3, 5, classes=4, count=6)
    assert rows.shape == (5, 24)
    assert (rows.reshape(5, 4, 6) // 6 == np.arange(4)[:, None]).all()
    assert np.array_equal(rows[:2], stratified_resamples(3, 2, 4, 6))
    assert not np.array_equal(rows, stratified_resamples(4, 5, 4, 6))
    assert stratified_resamples(0, 0, 4, 6).shape == (0, 24)
    # each image is drawn about equally often
    many = np.bincount(stratified_resamples(0, 400, 1, 5).ravel())
    assert many == pytest.approx(400, abs=5 * 20)


def test_distances_are_those_of_each_resampled_set() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 5)).astype(np.float32) * np.arange(1, 6)
    reference = Moments.from_batch(rng.normal(size=(40, 5)) + 0.3)
    rows = stratified_resamples(0, 4, 3, 20)
    expected = [frechet_distance(Moments.from_batch(features[chosen]), reference) for chosen in rows]
    assert resampled_distances(features, rows, reference) == pytest.approx(expected, rel=1e-7)
    # of a covariance without full rank, too
    thin = stratified_resamples(0, 3, 1, 4)
    few = [frechet_distance(Moments.from_batch(features[chosen]), reference) for chosen in thin]
    assert resampled_distances(features[:4], thin, reference) == pytest.approx(few, rel=1e-5)


def test_inception_scores_are_those_of_each_resampled_set() -> None:
    logits = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32) * 3
    rows = stratified_resamples(0, 3, 3, 10)
    split = np.zeros(30, np.int64)
    expected = [ScoreSums.from_batch(logits[chosen], split, 1).score()[0] for chosen in rows]
    assert resampled_inception_scores(logits, rows) == pytest.approx(expected)


def test_the_interval_holds_the_figure_and_has_the_spread_of_the_resamples() -> None:
    resampled = np.random.default_rng(0).normal(7.0, 0.5, 20_000)
    # 7 instead of 5 is the bootstrap's own bias
    low, high = centred_bootstrap_interval(5.0, resampled, 0.95) or (0, 0)
    assert (low, high) == pytest.approx((5 - 1.96 * 0.5, 5 + 1.96 * 0.5), abs=0.02)
    assert centred_bootstrap_interval(0.1, resampled, 0.95) == pytest.approx((0.0, 0.1 + 0.98), abs=0.02)
    assert centred_bootstrap_interval(5.0, np.empty(0), 0.95) is None


def test_bootstrap_intervals_cover_the_distance_at_this_count() -> None:
    """The distance that sets of this size have in the mean lies inside about as often as is said."""
    rng = np.random.default_rng(5)
    reference = Moments.from_batch(rng.normal(size=(4000, 2)))
    sets = [rng.normal(0.5, 1.2, size=(60, 2)) for _ in range(60)]
    values = [frechet_distance(Moments.from_batch(one), reference) for one in sets]
    rows = stratified_resamples(0, 100, 1, 60)
    inside = 0
    for one, value in zip(sets, values, strict=True):
        low, high = centred_bootstrap_interval(value, resampled_distances(one, rows, reference), 0.9) or (0.0, 0.0)
        inside += low <= float(np.mean(values)) <= high
    assert 0.8 <= inside / len(sets) <= 0.98


def test_a_clear_minimum_is_located_without_doubt() -> None:
    resampled = np.array([[3.0, 3.1, 2.9], [1.4, 1.5, 1.6], [2.0, 2.1, 1.9]])
    found = locate_minimum([1.0, 2.0, 4.0], [2.8, 1.2, 1.9], resampled, 0.95)
    assert (found.value, found.low, found.high, found.inside) == (2.0, 2.0, 2.0, True)
    assert found.shares == {1.0: 0.0, 2.0: 1.0, 4.0: 0.0}


def test_places_that_are_alike_share_the_interval_and_an_end_is_said() -> None:
    rng = np.random.default_rng(0)
    resampled = 5 + rng.normal(size=(3, 4000))
    found = locate_minimum([3.0, 1.0, 2.0], [1.0, 1.0, 6.0], resampled, 0.9)
    assert (found.low, found.high, found.inside) == (1.0, 3.0, False)
    assert found.shares[2.0] == pytest.approx(0.0, abs=0.01)
    assert found.shares[1.0] == pytest.approx(0.5, abs=0.05)
    assert list(found.shares) == [1.0, 2.0, 3.0]


def test_the_bootstraps_bias_does_not_move_the_minimum() -> None:
    """A place whose resamples are biased up by more is still best where its figure is."""
    rng = np.random.default_rng(0)
    resampled = np.stack([1.0 + rng.normal(0, 0.05, 300), 2.0 + rng.normal(0, 0.05, 300)])
    found = locate_minimum([1.0, 2.0], [1.0, 0.5], resampled, 0.95)
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)


def test_without_resamples_there_is_a_place_alone() -> None:
    found = locate_minimum([1.0, 2.0, 3.0], [3.0, 1.0, 2.0], np.empty((3, 0)), 0.95)
    assert (found.value, found.low, found.high, found.shares, found.inside) == (2.0, 2.0, 2.0, {}, True)
