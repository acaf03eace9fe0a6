"""Rejection sampling against a naive reference, and the laws that make rates comparable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vim_core.errors import ConfigError, DataError
from vim_core.sampling.rejection import accept, candidates_by_class, candidates_needed

RATES = [1.0, 0.5, 0.25, 0.05]


@st.composite
def drawn(draw: st.DrawFn) -> tuple[int, int, list[tuple[str, int, float]]]:
    """Classes, images kept a class, and shuffled candidates (key, label, score) with many equal scores."""
    classes, count = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    total = classes * (count * 4 + draw(st.integers(0, 3)))
    scores = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=total, max_size=total))
    rows = [(f"sample-{i:08d}", i % classes, score) for i, score in enumerate(scores)]
    return classes, count, draw(st.permutations(rows))


def chosen(rows: list[tuple[str, int, float]], classes: int, count: int, rates: list[float]) -> dict[float, list[str]]:
    keys, labels, scores = zip(*rows, strict=True)
    found = accept(keys, np.array(labels), np.array(scores), classes, count, rates)
    return {rate: [keys[row] for row in kept] for rate, kept in found.items()}


def naive(rows: list[tuple[str, int, float]], classes: int, count: int, rate: float) -> list[str]:
    """The definition, word by word."""
    kept: list[str] = []
    for number in range(classes):
        first = sorted((key, -score) for key, label, score in rows if label == number)[: round(count / rate)]
        best = sorted(first, key=lambda pair: (pair[1], pair[0]))[:count]
        kept += [key for key, _ in best]
    return sorted(kept)


@settings(max_examples=40)
@given(drawn())
def test_it_is_the_definition_in_any_order(case: tuple[int, int, list[tuple[str, int, float]]]) -> None:
    classes, count, rows = case
    rates = [1.0, 0.5, 0.25]
    expected = {rate: naive(rows, classes, count, rate) for rate in rates}
    assert chosen(rows, classes, count, rates) == expected
    assert chosen(sorted(rows), classes, count, rates) == expected


@settings(max_examples=40)
@given(drawn())
def test_all_rates_keep_equally_many_and_stricter_ones_the_surer_of_more_candidates(
    case: tuple[int, int, list[tuple[str, int, float]]],
) -> None:
    classes, count, rows = case
    label_of, score_of = {key: label for key, label, _ in rows}, {key: score for key, _, score in rows}
    found = chosen(rows, classes, count, [1.0, 0.5, 0.25])
    assert found[1.0] == sorted(key for key, _, _ in sorted(rows)[: classes * count])
    for kept in found.values():
        assert np.bincount([label_of[key] for key in kept], minlength=classes).tolist() == [count] * classes
    means = [sum(score_of[key] for key in found[rate]) for rate in (1.0, 0.5, 0.25)]
    assert means == sorted(means)
    # nested: what the stricter rate keeps of the looser one's candidates, the looser one keeps too
    looser = set(sorted(key for key, _, _ in rows)[: classes * count * 2])
    assert set(found[0.25]) & looser <= set(found[0.5])


@settings(max_examples=40)
@given(drawn(), st.integers(1, 5))
def test_more_candidates_than_needed_change_nothing(
    case: tuple[int, int, list[tuple[str, int, float]]], more: int
) -> None:
    classes, count, rows = case
    enough = [row for row in sorted(rows) if int(row[0][-8:]) < classes * count * 4]
    extra = [(f"sample-{10**7 + i:08d}", i % classes, 1.0) for i in range(more * classes)]
    assert chosen(enough + extra, classes, count, [1.0, 0.25]) == chosen(enough, classes, count, [1.0, 0.25])


@pytest.mark.parametrize(
    ("count", "rate", "expected"),
    [(50, 0.05, 1000), (3, 0.1, 30), (7, 1.0, 7), (10, 0.3, 34), (1, 1e-05, 100_000), (50, 0.25, 200)],
)
def test_a_pool_is_counted_with_the_rate_as_written(count: int, rate: float, expected: int) -> None:
    assert candidates_needed(count, rate) == expected


def test_too_few_candidates_say_how_many_there_must_be() -> None:
    keys = [f"k{i}" for i in range(10)]
    labels, scores = np.arange(10) % 2, np.ones(10)
    with pytest.raises(
        ConfigError, match=r"keep 1 images a class at rate 0\.05 takes 20 .* 5: set sample\.count to at least 40"
    ):
        accept(keys, labels, scores, 2, 1, RATES)
    with pytest.raises(ConfigError, match=r"there are 0: set sample\.count to at least 6"):
        accept(keys, labels, scores, 3, 2, [1.0])


@pytest.mark.parametrize("rate", [0.0, -0.5, 1.5])
def test_a_rate_is_a_share(rate: float) -> None:
    with pytest.raises(ConfigError, match=r"acceptance rate .* must lie in \(0, 1\]"):
        candidates_needed(5, rate)
    with pytest.raises(ConfigError, match="keep 0 images"):
        candidates_needed(0, 0.5)


def test_what_is_no_candidate_is_refused() -> None:
    with pytest.raises(DataError, match="1 of 2 scores of the selector are not finite"):
        accept(["a", "b"], np.zeros(2, np.int64), np.array([0.5, np.nan]), 1, 1, [1.0])
    with pytest.raises(DataError, match="occurs twice"):
        candidates_by_class(["a", "a"], np.zeros(2, np.int64), 1)
    with pytest.raises(DataError, match="labels from -1 to -1"):
        candidates_by_class(["a"], np.full(1, -1), 3)
