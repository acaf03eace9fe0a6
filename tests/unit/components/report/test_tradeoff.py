"""The trade-off section: lines, intervals, best point, names; and nothing breaks where parts are missing."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest

from components.report import plots, tradeoff
from tests.unit.components.report.test_report import checked


def point(guidance: float, acceptance: float, fd: float, **others: Any) -> dict[str, Any]:
    accuracy = 0.5 + guidance / 20
    return {"temperature": 1.0, "guidance": guidance, "acceptance": acceptance, "count": 500, "accuracy": accuracy,
            "accuracy_low": accuracy - 0.02, "accuracy_high": accuracy + 0.02,
            "fd": fd, "fd_low": fd - 0.1, "fd_high": fd + 0.1, **others}  # fmt: skip


def grid(**others: Any) -> dict[str, Any]:
    """Three guidances by three rates; the distance is smallest at guidance 2 and acceptance 0.25."""
    points = [point(g, a, 1 + (g - 2) ** 2 + a) for g, a in product((1.0, 2.0, 3.0), (1.0, 0.5, 0.25))]
    return {"points": points, "best": 5, "judge": "j" * 64, "selector": "s" * 64, "protocol": {"count_per_class": 50},
            "figures": {"accuracy": "conditional_accuracy", "fd": "fd_classifier", "is": "is_classifier"},
            "best_guidance": [{"temperature": 1.0, "acceptance": 1.0, "guidance": 2.0, "low": 1.0, "high": 2.0,
                               "inside": False}], **others}  # fmt: skip


def test_the_section_shows_every_point_and_marks_the_best() -> None:
    found = tradeoff.section(grid())
    assert found is not None
    assert found.head == ("guidance", "acceptance", "temperature", "samples", "accuracy", "fd_classifier")
    assert [best for _, best in found.rows] == [i == 5 for i in range(9)]
    cells = found.rows[5][0]
    assert [cell.value for cell in cells] == ["2", "0.25", "1", "500", "60.0 %", "1.250"]
    assert cells[-1].interval == "1.150 to 1.350"
    assert found.best == (
        "The smallest fd_classifier, 1.250, was measured at guidance 2, acceptance 0.25, temperature 1; "
        "its interval overlaps with no other."
    )
    assert found.locations == (
        "At acceptance 1 and temperature 1, fd_classifier is smallest at guidance 2 (interval 1 to 2); "
        "the sweep ends there, so the best may lie beyond.",
    )
    assert {"judged by " + "j" * 12, "selected by " + "s" * 12, "count per class 50"} <= set(found.notes)


def test_charts_have_lines_intervals_and_one_ring() -> None:
    found = tradeoff.section(grid())
    assert found is not None
    seen = checked(found.chart)
    names = [attributes.get("class") for _, attributes in seen.tags]
    assert names.count("ring") == 1
    assert names.count("joined") == 2
    # 4 points lie on no line; the two lines share one, which is drawn twice; each has two bars
    assert names.count("bar") == 2 * (4 + 3 + 3)
    assert [caption for caption, _ in found.small] == [
        "fd_classifier over guidance (acceptance 1, temperature 1)",
        "accuracy over guidance (acceptance 1, temperature 1)",
        "fd_classifier over acceptance (guidance 1, temperature 1)",
        "accuracy over acceptance (guidance 1, temperature 1)",
    ]
    for _, chart in found.small:
        checked(chart)


def test_a_line_keeps_the_others_fixed_and_runs_from_loose_to_strict() -> None:
    points = grid()["points"]
    assert [p["acceptance"] for p in tradeoff.line(points, "acceptance")] == [1.0, 0.5, 0.25]
    assert {p["guidance"] for p in tradeoff.line(points, "acceptance")} == {1.0}
    assert [p["guidance"] for p in tradeoff.line(points, "guidance")] == [1.0, 2.0, 3.0]
    only = [p for p in points if p["guidance"] != 1.0 or p["acceptance"] == 1.0]
    assert {p["guidance"] for p in tradeoff.line(only, "acceptance")} == {2.0}


def test_an_overlap_is_said() -> None:
    record = grid()
    record["points"][4] |= {"fd_low": 1.3}
    found = tradeoff.section(record)
    assert found is not None
    assert found.best.endswith("the interval of 1 other point overlaps its own.")


def test_fid_is_named_only_where_the_record_says_so() -> None:
    assert tradeoff.names_of({})["fd"] == "Fréchet distance"
    assert tradeoff.names_of({"figures": {"fd": "fid", "is": "is"}}) == {
        "accuracy": "accuracy", "fd": "FID", "is": "Inception Score"}  # fmt: skip


@pytest.mark.parametrize(
    "points",
    [
        [{"guidance": 2.0, "fd": 1.0}],
        [{"guidance": 2.0, "fd": None, "accuracy": 0.5}, {"guidance": 3.0, "fd": 1.0, "accuracy": math.nan}],
        [point(1.0, 1.0, 1.0), point(1.0, 1.0, 1.0)],
    ],
)
def test_missing_parts_are_left_out(points: list[dict[str, Any]]) -> None:
    found = tradeoff.section({"points": points, "best": None})
    assert found is not None
    assert "nan" not in found.chart
    assert len(found.rows) == len(points)
    assert tradeoff.section(None) is None
    assert tradeoff.section({"points": []}) is None


def test_forms_differ_between_settings() -> None:
    keys = [plots.key(shape) for shape in range(3)]
    assert len(set(keys)) == 3
    for drawn in keys:
        checked(drawn)


@pytest.mark.parametrize(("low", "high"), [(1.012, 1.024), (0.0, 1.0), (2.0, 54_321.0), (-1e-4, 3e-4)])
def test_numbers_on_an_axis_differ(low: float, high: float) -> None:
    marks = (plots.Mark(low, low), plots.Mark(high, high))
    drawn = plots.scatter([plots.Series(marks)], "x", "y", "label")
    texts = [text for text in checked(drawn).texts if text not in ("x", "y")]
    assert len(texts) >= 4
    assert all(texts.count(text) <= 2 for text in texts)  # once on each axis
