"""Density and coverage against a naive reading of the paper's equations, and in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vim_core.errors import DataError
from vim_core.metrics.density_coverage import density_coverage


def naive(real: np.ndarray, made: np.ndarray, k: int) -> tuple[float, float]:
    """Equations 3 and 4 of Naeem et al. 2020, pair by pair."""
    reach = [sorted(float(np.linalg.norm(x - z)) for z in real)[k] for x in real]
    inside = [[bool(np.linalg.norm(y - x) < r) for x, r in zip(real, reach, strict=True)] for y in made]
    density = sum(map(sum, inside)) / (k * len(made))
    return density, float(np.mean([any(row[i] for row in inside) for i in range(len(real))]))


@settings(max_examples=20, deadline=None)
@given(st.integers(6, 20), st.integers(1, 20), st.integers(1, 5), st.floats(0, 2))
def test_equals_the_equations(n: int, m: int, k: int, shift: float) -> None:
    rng = np.random.default_rng(n * 31 + m)
    real, made = rng.normal(size=(n, 3)), rng.normal(size=(m, 3)) + shift
    density, covered = density_coverage(real, made, k)
    assert (density.shape, covered.shape) == ((m,), (n,))
    assert (density.mean(), covered.mean()) == pytest.approx(naive(real, made, k))


def test_on_a_line_by_hand() -> None:
    """Real 0 1 3 with one neighbour reach 1, 1, 2: 0.5 lies in the balls of 0 and 1, 2 in that of 3, 9 in none."""
    density, covered = density_coverage(np.array([[0.0], [1.0], [3.0]]), np.array([[0.5], [2.5], [9.0]]), 1)
    assert density.tolist() == [2, 1, 0]
    assert covered.tolist() == [True, True, True]


def test_one_distribution_has_density_one_and_a_collapsed_one_covers_little() -> None:
    rng = np.random.default_rng(0)
    real, made = rng.normal(size=(600, 2)), rng.normal(size=(600, 2))
    density, covered = density_coverage(real, made)
    assert density.mean() == pytest.approx(1, abs=0.08)
    # One sample misses a ball with chance 1 - mass, and the expectation over balls of 5 neighbours is 1 - 2^-5.
    assert covered.mean() == pytest.approx(1 - 2**-5, abs=0.03)
    assert density_coverage(real, np.repeat(real[:1], 600, 0))[1].mean() < 0.05


def test_what_does_not_compare_is_refused() -> None:
    with pytest.raises(DataError, match="more than 5 real images and a sample: 5, 9"):
        density_coverage(np.zeros((5, 2)), np.zeros((9, 2)))
    with pytest.raises(DataError, match="two networks"):
        density_coverage(np.zeros((9, 2)), np.zeros((9, 3)))
