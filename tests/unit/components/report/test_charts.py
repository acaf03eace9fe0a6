"""Charts: finite, inside their frame, with round numbers on the axes."""

from __future__ import annotations

import re

import numpy as np
import pytest

from components.report import charts
from tests.support.html import checked


def test_a_curve_survives_values_that_are_not_finite() -> None:
    drawn = charts.line_chart([(0, 1.0), (1, float("nan")), (2, float("inf")), (3, 0.5)], "loss")
    assert "nan" not in drawn
    assert "inf" not in drawn
    assert charts.line_chart([(0, float("nan"))], "loss") == ""
    checked(charts.line_chart([(0, 2.0), (5, 2.0)], "<script>"))


def test_points_stay_inside_the_drawing() -> None:
    rng = np.random.default_rng(0)
    for drawn in (
        charts.line_chart([(i, v) for i, v in enumerate(rng.normal(size=999) * 1e4)], "x"),
        charts.block_chart([0.2, 1.0, 0.9], 0.95, "x"),
    ):
        for path in re.findall(r' d="M([^"]+)"', drawn):
            points = np.array([pair.split(",") for pair in path.split()], dtype=float)
            assert (points >= 0).all()
            assert (points <= [charts.WIDTH, charts.HEIGHT]).all()


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.812, 0.987), (-3.1, 2.2), (1e-6, 3e-6), (0.0, 54321.0)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    values = charts.ticks(low, high)
    assert 2 <= len(values) <= 6
    assert all(low - 1e-9 * abs(high) <= value <= high * (1 + 1e-9) for value in values)
    step = values[1] - values[0]
    assert round(step / 10 ** np.floor(np.log10(step) + 1e-9)) in (1, 2, 5)


def test_thinning_keeps_means_and_the_last_step() -> None:
    points = [(float(i), float(i)) for i in range(1000)]
    thin = charts.thinned(points, 100)
    assert (len(thin), thin[-1][0]) == (100, 999.0)
    assert np.mean([value for _, value in thin]) == pytest.approx(np.mean([value for _, value in points]))


def test_symbols_of_series_differ() -> None:
    keys = [charts.legend_key(shape) for shape in range(5)]
    assert len(set(keys)) == 5
    for drawn in keys:
        checked(drawn)


@pytest.mark.parametrize(("low", "high"), [(1.012, 1.024), (0.0, 1.0), (2.0, 54_321.0), (-1e-4, 3e-4)])
def test_numbers_on_an_axis_differ(low: float, high: float) -> None:
    marks = (charts.Mark(low, low), charts.Mark(high, high))
    drawn = charts.scatter([charts.Series(marks)], "x", "y", "label")
    texts = [text for text in checked(drawn).texts if text not in ("x", "y")]
    assert len(texts) >= 4
    assert all(texts.count(text) <= 2 for text in texts)  # once on each axis
