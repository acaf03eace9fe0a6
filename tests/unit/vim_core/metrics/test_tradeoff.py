"""The interval of the best setting against the probability of the difference, and without anything known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vim_core.metrics.intervals import jackknife_interval
from vim_core.metrics.tradeoff import locate_minimum

GROUPS = 20
ALONE = np.random.default_rng(0).normal(size=(3, GROUPS))
"""Deviations of a figure without one group each, of settings that share no noise."""


def test_a_clear_minimum_is_located_without_doubt() -> None:
    found = locate_minimum([1.0, 2.0, 4.0], [2.8, 1.2, 1.9], 0.01 * ALONE, 400, 0.95)
    assert (found.value, found.low, found.high, found.inside) == (2.0, 2.0, 2.0, True)
    assert found.shares == {1.0: 0.0, 2.0: 1.0, 4.0: 0.0}


def test_settings_that_are_alike_share_the_interval_and_an_end_is_said() -> None:
    found = locate_minimum([3.0, 1.0, 2.0], [1.0, 1.0, 60.0], ALONE, 4000, 0.9)
    assert (found.low, found.high, found.inside) == (1.0, 3.0, False)
    assert found.shares[2.0] == pytest.approx(0.0, abs=0.01)
    assert found.shares[1.0] == pytest.approx(0.5, abs=0.05)
    assert list(found.shares) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("shared", [0.0, 5.0])
def test_shares_are_those_of_the_jackknife_of_the_difference(shared: float) -> None:
    """Noise that both settings share moves neither the difference nor the location."""
    without = ALONE[:2] + shared * ALONE[2]
    low, high = jackknife_interval(0.0, without[0] - without[1])
    error = (high - low) / 2 / stats.t.ppf(0.975, GROUPS - 1)
    for difference in (-1.5, 0.5, 2.0):
        found = locate_minimum([1.0, 2.0], [7.0 + difference * error, 7.0], without, 20_000, 0.95)
        assert found.shares[2.0] == pytest.approx(stats.t.cdf(difference, GROUPS - 1), abs=0.015)
        assert found.value == (1.0 if difference < 0 else 2.0)


@pytest.mark.parametrize(("groups", "draws"), [(GROUPS, 0), (0, 100)])
def test_without_draws_or_groups_every_setting_may_be_the_best(groups: int, draws: int) -> None:
    found = locate_minimum([1.0, 3.0, 2.0], [3.0, 2.0, 1.0], ALONE[:, :groups], draws, 0.95)
    assert (found.value, found.low, found.high, found.shares, found.inside) == (2.0, 1.0, 3.0, {}, False)
