"""Points beside each other: lines, front, intervals, best point, names; and nothing breaks where parts are missing."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest

from components.report import tradeoff
from components.report.tradeoff import Section
from tests.support.html import checked


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


def section(step: dict[str, Any]) -> Section:
    found = tradeoff.report_section(step)
    assert found is not None
    return found


def test_the_section_shows_every_point_and_marks_the_best() -> None:
    found = section(grid())
    assert found.head == (
        "point",
        "guidance",
        "acceptance",
        "temperature",
        "accuracy",
        "Fréchet distance (classifier features)",
    )
    assert [row.mark for row in found.rows] == ["", "", "", "", "", "best", "", "", "front"]
    assert found.rows[5].settings == ("2", "0.25", "1")
    assert found.rows[5].figures == (("60.0 %", "58.0 to 62.0 %"), ("1.250", "1.150 to 1.350"))
    assert found.best == (
        "Best: point 6 (guidance 2, acceptance 0.25, temperature 1). The best point has the smallest "
        "Fréchet distance (classifier features). "
        "Its Fréchet distance (classifier features) is 1.250; its interval overlaps with no other."
    )
    assert found.locations == (
        "At acceptance 1 and temperature 1, Fréchet distance (classifier features) is smallest at guidance 2 "
        "(interval 1 to 2); the grid ends there, so the best may lie beyond.",
    )
    assert {"evaluated by " + "j" * 12, "selected by " + "s" * 12, "count per class 50"} <= set(found.notes)


def test_charts_have_lines_intervals_a_front_and_one_ring() -> None:
    found = section(grid())
    names = [attributes.get("class") for _, attributes in checked(found.chart).tags]
    assert names.count("ring") == 1
    # along guidance, along acceptance, and the front
    assert names.count("joined") == 3
    # 4 points lie on no line; the two lines share one, which is drawn twice; each has two bars
    assert names.count("bar") == 2 * (4 + 3 + 3)
    assert [caption for caption, _ in found.small] == [
        "Fréchet distance (classifier features) over guidance (acceptance 1, temperature 1)",
        "accuracy over guidance (acceptance 1, temperature 1)",
        "Fréchet distance (classifier features) over acceptance (guidance 1, temperature 1)",
        "accuracy over acceptance (guidance 1, temperature 1)",
    ]
    for _, chart in found.small:
        checked(chart)


def test_a_line_keeps_the_others_fixed_and_runs_from_loose_to_strict() -> None:
    def along(points: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
        record = tradeoff.from_step({"points": points})
        members = tradeoff.line(record["points"], record["varying"], key)
        return [(member["settings"]["guidance"], member["settings"]["acceptance"]) for member in members]

    points = grid()["points"]
    assert along(points, "acceptance") == [(1.0, 1.0), (1.0, 0.5), (1.0, 0.25)]
    assert along(points, "guidance") == [(1.0, 1.0), (2.0, 1.0), (3.0, 1.0)]
    only = [p for p in points if p["guidance"] != 1.0 or p["acceptance"] == 1.0]
    assert {guidance for guidance, _ in along(only, "acceptance")} == {2.0}


def test_an_overlap_is_said() -> None:
    record = grid()
    record["points"][4] |= {"fd_low": 1.3}
    assert section(record).best.endswith("its interval overlaps with that of 1 other point.")


def test_fid_is_named_only_where_the_record_says_so() -> None:
    named = {"accuracy": "conditional_accuracy", "fd": "fid", "is": "is"}
    points = [point(1.0, 1.0, 1.0, **{"is": 9.0})]
    assert section({"points": points, "figures": named}).head[-3:] == ("Inception Score", "FID", "accuracy")
    assert section({"points": points}).head[-2:] == ("accuracy", "Fréchet distance")


@pytest.mark.parametrize(
    "points",
    [
        [{"guidance": 2.0, "fd": 1.0}],
        [{"guidance": 2.0, "fd": None, "accuracy": 0.5}, {"guidance": 3.0, "fd": 1.0, "accuracy": math.nan}],
        [point(1.0, 1.0, 1.0), point(1.0, 1.0, 1.0)],
    ],
)
def test_missing_parts_are_left_out(points: list[dict[str, Any]]) -> None:
    found = section({"points": points, "best": None})
    assert "nan" not in found.chart
    assert len(found.rows) == len(points)
    assert tradeoff.report_section(None) is None
    assert tradeoff.report_section({"points": []}) is None


def test_settings_of_a_sweep_that_are_no_numbers_are_in_the_table_alone() -> None:
    figures = [{"fid": {"value": value}, "is": {"value": 1.0}} for value in (3.0, 2.0)]
    points = [
        {"number": n, "label": f"classes {n}", "settings": {"sample.classes": ["a", n], "sample.seed": n}, "figures": f}
        for n, f in enumerate(figures, 1)
    ]
    group = {"points": [1, 2], "front": [2], "best": 2}
    record = {"varying": ["sample.classes", "sample.seed"], "axes": ["max is", "min fid"], "points": points,
              "groups": [group], "best_rule": ""}  # fmt: skip
    found = tradeoff.section(record, group)
    assert [row.settings for row in found.rows] == [("['a', 1]", "1"), ("['a', 2]", "2")]
    assert found.small == ()
    checked(found.chart)
