"""A sweep's page: the points against each other, the front, the best, and the table; one file without scripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.report import format, plots
from components.report.page import filled
from components.report.plots import REST, Mark, Series
from components.report.results import SHARES
from pipelines.sweeps import table
from pipelines.sweeps.results import FAILED
from pipelines.sweeps.spec import axis

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """Points of one protocol as the template shows them."""

    chart: str
    sentences: tuple[tuple[str, str], ...]
    head: tuple[str, ...]
    rows: tuple[tuple[table.Row, bool, bool], ...]
    best: str


def render(results: Record) -> str:
    """The page as HTML without scripts or outside references. All text is escaped."""
    return filled(
        "sweep.html",
        title=f"Sweep {results['sweep']}",
        results=results,
        groups=[_group(results, group) for group in results["groups"]],
        failed=[point for point in results["points"] if point["status"] == FAILED],
        legend=((plots.key(0), "front: no point is better on both axes"), (plots.key(REST), "other points")),
        shared=sharing(results),
    )


def sharing(results: Record) -> str:
    """How many artifacts all the points came from, such as '12 points from 4 sample, 4 select and 4 score'."""
    counts = results["counts"]
    made = [f"{count} {name}" for name, count in counts["artifacts"].items()]
    parts = ", ".join(made[:-1]) + (f" and {made[-1]}" if len(made) > 1 else "".join(made))
    return f"{counts['points']} points from {parts}" if made else f"{counts['points']} points"


def _group(results: Record, group: Record) -> Group:
    points = {point["number"]: point for point in results["points"]}
    members = [points[number] for number in group["points"]]
    names = [axis(text)[1] for text in results["axes"]]
    protocols = [(name, members[0]["figures"].get(name, {}).get("protocol", {})) for name in names]
    best, front = group["best"], group["front"]
    return Group(
        chart=_chart(results, members, group),
        sentences=tuple((name, format.sentence(_shared(protocol))) for name, protocol in protocols if protocol),
        head=table.head(results),
        rows=tuple((table.row(results, p), p["number"] in front, p["number"] == best) for p in members),
        best=points.get(best, {}).get("label", ""),
    )


def _shared(protocol: Record) -> dict[str, Any]:
    """The protocol without how images were drawn: that is what differs between points."""
    return {key: value for key, value in protocol.items() if key != "sampling"}


def _chart(results: Record, members: list[Record], group: Record) -> str:
    (_, x), (_, y) = map(axis, results["axes"])
    front = [point for number in group["front"] for point in members if point["number"] == number]
    rest = [point for point in members if point["number"] not in group["front"]]
    named = len(members) <= 24
    series = [
        Series(tuple(_mark(p, x, y, "", False) for p in rest), REST, joined=False),
        Series(tuple(_mark(p, x, y, p["label"] if named else "", p["number"] == group["best"]) for p in front), 0),
    ]
    shares = bool(set(x.split("_")) & set(SHARES))
    return plots.scatter(series, _named(results["axes"][0]), _named(results["axes"][1]), f"{y} against {x}", shares)


def _named(text: str) -> str:
    direction, name = axis(text)
    return f"{name.replace('_', ' ')} ({'more' if direction == 'max' else 'less'} is better)"


def _mark(point: Record, x: str, y: str, label: str, best: bool) -> Mark:
    (across, x_range), (up, y_range) = (table.measured(point, name) for name in (x, y))
    return Mark(across, up, f"{point['number']}: {label}" if label else str(point["number"]), x_range, y_range, best)
