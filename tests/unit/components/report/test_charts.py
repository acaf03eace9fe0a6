"""Charts: finite, inside their frame, with round numbers on the axes."""

from __future__ import annotations

import base64
import re
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest

from components.report import charts, svg
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
            assert (points <= [svg.WIDTH, svg.HEIGHT]).all()


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.812, 0.987), (-3.1, 2.2), (1e-6, 3e-6), (0.0, 54321.0)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    values = svg.ticks(low, high)
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
    keys = [svg.legend_key(shape) for shape in range(5)]
    assert len(set(keys)) == 5
    for drawn in keys:
        checked(drawn)


@pytest.mark.parametrize(("low", "high"), [(1.012, 1.024), (0.0, 1.0), (2.0, 54_321.0), (-1e-4, 3e-4)])
def test_numbers_on_an_axis_differ(low: float, high: float) -> None:
    marks = (svg.Mark(low, low), svg.Mark(high, high))
    drawn = charts.scatter([svg.Series(marks)], "x", "y", "label")
    texts = [text for text in checked(drawn).texts if text not in ("x", "y")]
    assert len(texts) >= 4
    assert all(texts.count(text) <= 2 for text in texts)  # once on each axis


def test_labels_cover_neither_each_other_nor_a_mark() -> None:
    rng = np.random.default_rng(3)
    near = [svg.Mark(x, y, f"{i}: guidance {i}") for i, (x, y) in enumerate(rng.normal(0, 0.02, (12, 2)))]
    drawn = charts.scatter([svg.Series((*near, svg.Mark(1, 1), svg.Mark(-1, -1)))], "x", "y", "label")
    pattern = r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">(\d+: guidance \d+)</text>'
    found = re.findall(pattern, drawn)
    assert 3 <= len(found) < 12
    boxes = []
    for x, y, anchor, words in found:
        width = svg.LETTER * len(words)
        left = float(x) - {"start": 0, "middle": width / 2, "end": width}[anchor]
        boxes.append((left, float(y) - svg.LABEL_HEIGHT, left + width, float(y)))
    dots = [(float(x), float(y), float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    for i, (left, top, right, bottom) in enumerate(boxes):
        for a, b, c, d in [*boxes[i + 1 :], *dots]:
            assert not (left < c and a < right and top < d and b < bottom)


def test_a_wide_range_of_positive_values_has_a_logarithmic_axis() -> None:
    falling = [(float(step), 10.0 ** (2 - step / 10)) for step in range(41)]
    texts = checked(charts.line_chart(falling, "loss")).texts
    assert {"0.01", "0.1", "1", "10", "100"} <= set(texts)
    assert "0.01" not in checked(charts.line_chart([(0, -1.0), *falling], "loss")).texts
    assert {"2", "5"} <= set(checked(charts.line_chart([(0, 1.5), (1, 60.0)], "loss")).texts)


def test_charts_name_their_points_and_are_offered_as_files() -> None:
    marks = (svg.Mark(1, 2, "1", (0.5, 1.5), None, note="point 1 <b>"), svg.Mark(3, 4, "2", note="point 2"))
    drawn = charts.scatter([svg.Series(marks)], "x →", "↑ y", "label")
    assert {"point 1 <b>", "point 2"} <= set(checked(drawn).texts)
    assert drawn.csv.splitlines() == ["point,x,low,high,y,low,high", "point 1 <b>,1,0.5,1.5,2,,", "point 2,3,,,4,,"]
    kind, _, data = drawn.svg_uri.partition(",")
    assert kind == "data:image/svg+xml;base64"
    whole = ElementTree.fromstring(base64.b64decode(data))
    assert whole.tag == "{http://www.w3.org/2000/svg}svg"
    assert unquote(drawn.csv_uri.partition(",")[2]) == drawn.csv
