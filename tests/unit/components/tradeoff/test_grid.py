"""The front against its definition, and which of its points is called the best."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.tradeoff.grid import Pair, nearest_to_ideal, pareto_front

PAIRS = st.lists(st.tuples(st.integers(0, 6).map(float), st.integers(0, 6).map(float)), min_size=1, max_size=20)
SIGNS = st.tuples(st.sampled_from([1, -1]), st.sampled_from([1, -1]))


def beats(one: Pair, other: Pair, signs: tuple[int, int]) -> bool:
    gains = [sign * (a - b) for sign, a, b in zip(signs, one, other, strict=True)]
    return min(gains) >= 0 and max(gains) > 0


@settings(deadline=None)
@given(PAIRS, SIGNS)
def test_front_is_what_no_other_point_beats(pairs: list[Pair], signs: tuple[int, int]) -> None:
    expected = {i for i, pair in enumerate(pairs) if not any(beats(other, pair, signs) for other in pairs)}
    found = pareto_front(pairs, signs)
    assert set(found) == expected
    assert [pairs[i] for i in found] == sorted(pairs[i] for i in found)


@settings(deadline=None)
@given(PAIRS, SIGNS)
def test_best_is_on_the_front_and_does_not_depend_on_units(pairs: list[Pair], signs: tuple[int, int]) -> None:
    best = nearest_to_ideal(pairs, signs)
    assert best in pareto_front(pairs, signs)
    # Powers of two, so that the arithmetic is exact.
    assert nearest_to_ideal([(8 * x - 4, y / 4 + 16) for x, y in pairs], signs) == best


def test_best_is_the_balanced_point() -> None:
    # (accuracy, distance): the extremes of the front are each the worst on the other axis.
    assert nearest_to_ideal([(0.90, 0.1), (0.97, 0.2), (0.99, 0.9)], (1, -1)) == 1


@pytest.mark.parametrize("pairs", [[(1.0, 2.0)], [(1.0, 2.0), (1.0, 2.0)]])
def test_a_front_without_extent_has_its_first_point_as_the_best(pairs: list[Pair]) -> None:
    assert nearest_to_ideal(pairs, (1, -1)) == 0
