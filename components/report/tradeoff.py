"""Points of different sampling settings compared: the report's trade-off section and the page of a sweep.

Both show a record like a sweep's `results.json`; `from_step` makes one of the file `tradeoff.json` of the step.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.report import charts, metrics, svg
from components.report.svg import Mark, Series
from components.tradeoff import grid
from components.tradeoff.grid import ACCEPTANCE, format_value, label, measured, parse_axis, short_name

Record = Mapping[str, Any]
SETTINGS = (grid.GUIDANCE, ACCEPTANCE, grid.TEMPERATURE)
ENDS = {"value": "", "low": "_low", "high": "_high"}
"""A figure's parts in `results.json` of a sweep, and the endings of their names in `tradeoff.json`."""
NEUTRAL = 1.0
"""Guidance, acceptance and temperature that change nothing."""
MOST_LABELS = 24
"""Largest number of points of a chart that are labelled with their numbers."""
MOST_FIGURES = 4
"""Figures of the table beside those of the axes."""
FIRST = ("conditional_accuracy", "fid", "is", "fd_", "precision", "recall", "probe.")
"""Beginnings of the names of figures that the table shows, in this order."""
TITLES = {"conditional_accuracy": "accuracy"}


@dataclass(frozen=True)
class Row:
    """A point as text: number, `best` or `front`, settings, and figures with their intervals ('' for none)."""

    number: int
    mark: str
    settings: tuple[str, ...]
    figures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Section:
    """Comparable points as the template shows them: the large chart with its legend, small charts, and the table.

    `best` describes the best point and the conclusion that its interval allows, `locations` the guidance with the
    smallest figure; `protocols` are (figure, protocol in words).
    """

    chart: str
    legend: tuple[tuple[str, str], ...]
    small: tuple[tuple[str, str], ...]
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    best: str
    locations: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    protocols: tuple[tuple[str, str], ...] = ()


def report_section(step: Record | None) -> Section | None:
    """The report's section for the content of `tradeoff.json`, or None without points.

    Beside the points it has the best guidance at each temperature and acceptance with the interval of its location, and
    as notes the digests of the evaluator and the selector and the protocol's plain values.
    """
    if step is None or not step.get("points"):
        return None
    record = from_step(step)
    distance = title(parse_axis(record["axes"][1]).name)
    locations = []
    for place in step.get("best_guidance", []):
        text = f"At acceptance {place['acceptance']:g} and temperature {place['temperature']:g}, {distance} is smallest"
        text += f" at guidance {place['guidance']:g} (interval {place['low']:g} to {place['high']:g})"
        end = "." if place.get("inside", True) else "; the grid ends there, so the best may lie beyond."
        locations.append(text + end)
    roles = (("judge", "evaluated by"), ("selector", "selected by"))
    notes = [f"{text} {str(step[name])[:12]}" for name, text in roles if step.get(name)]
    plain = {key: value for key, value in step.get("protocol", {}).items() if isinstance(value, str | int | float)}
    notes += [f"{key.replace('_', ' ')} {value}" for key, value in plain.items() if "digest" not in key]
    return section(record, record["groups"][0], locations, notes)


def from_step(step: Record) -> dict[str, Any]:
    """The content of `tradeoff.json` as a record of a sweep; figures are named as `score` names them."""
    names: dict[str, str] = {"accuracy": "conditional_accuracy", "fd": "fd", "is": "score", **step.get("figures", {})}
    points = []
    for number, given in enumerate(step["points"], 1):
        settings = {name: float(given.get(name, NEUTRAL)) for name in SETTINGS}
        figures = {
            name: {end: float(given[key + tail]) for end, tail in ENDS.items() if _finite(given.get(key + tail))}
            for key, name in names.items()
            if _finite(given.get(key))
        }
        points.append({"number": number, "label": label(settings), "settings": settings, "figures": figures})
    axes = grid.default_axes(names["fd"], names["is"])
    best = f"min {names['fd']}"
    return {
        "varying": list(SETTINGS),
        "axes": axes,
        "best_rule": grid.best_rule(best, axes),
        "groups": [grid.rank(points, axes, best)],
        "points": points,
    }


def section(record: Record, group: Record, locations: Sequence[str] = (), notes: Sequence[str] = ()) -> Section:
    """The points of one group of a record beside each other; see `Section`."""
    by_number = {point["number"]: point for point in record["points"]}
    points = [by_number[number] for number in group["points"]]
    names = [parse_axis(text).name for text in record["axes"]]
    lines = {key: found for key in record["varying"] if len(found := line(points, record["varying"], key)) > 1}
    protocols = [(title(name), points[0]["figures"].get(name, {}).get("protocol", {})) for name in names]
    return Section(
        chart=_chart(record, points, group, lines),
        legend=_legend(record, lines, len(points)),
        small=tuple(_small_charts(record, group, lines)),
        head=head(record),
        rows=tuple(row(record, point) for point in points),
        best=_best(record, points, group),
        locations=tuple(locations),
        notes=tuple(notes),
        # the points differ in the sampling settings only
        protocols=tuple((name, metrics.sentence({**given, "sampling": {}})) for name, given in protocols if given),
    )


def line(points: Sequence[Record], varying: Sequence[str], key: str) -> list[Record]:
    """The longest series along one setting with the others fixed, ascending, acceptance from loose to strict.

    Of series of one length, the one at the most neutral values is taken.
    """
    others = [other for other in varying if other != key]
    series: dict[tuple[str, ...], dict[Any, Record]] = {}
    distance: dict[tuple[str, ...], float] = {}
    for point in points:
        fixed = tuple(format_value(point["settings"].get(other)) for other in others)
        numbers = [value for other in others if _finite(value := point["settings"].get(other))]
        distance.setdefault(fixed, sum(abs(value - NEUTRAL) for value in numbers))
        if _finite(value := point["settings"].get(key)):
            series.setdefault(fixed, {}).setdefault(value, point)
    if not series:
        return []
    longest = series[max(series, key=lambda fixed: (len(series[fixed]), -distance[fixed]))]
    return [longest[value] for value in sorted(longest, reverse=key == ACCEPTANCE)]


def title(name: str) -> str:
    """A figure's name for people; FID and IS only where they are of the published network."""
    return TITLES.get(name) or metrics.label(name.replace(".", " "))


def columns(record: Record) -> list[str]:
    """Figures of the table: those of the axes, then others that points have, the usual ones first."""

    def rank(name: str) -> int:
        return next((i for i, start in enumerate(FIRST) if name == start or name.startswith(start)), len(FIRST))

    known = dict.fromkeys(name for point in record["points"] for name in point["figures"])
    axes = [name for name in dict.fromkeys(parse_axis(text).name for text in record["axes"]) if name in known]
    others = sorted((name for name in known if name not in axes and rank(name) < len(FIRST)), key=rank)
    return [*axes, *others[:MOST_FIGURES]]


def head(record: Record) -> tuple[str, ...]:
    """Titles of the table's columns: the point's number, settings, figures."""
    settings = [short_name(key).replace("_", " ") for key in record["varying"]]
    return ("point", *settings, *map(title, columns(record)))


def row(record: Record, point: Record) -> Row:
    """The table's row of one point."""
    marks = {group["best"]: "best" for group in record["groups"]}
    fronts = {number for group in record["groups"] for number in group["front"]}
    mark = marks.get(point["number"], "front" if point["number"] in fronts else "")
    settings = tuple(format_value(point["settings"].get(key)) for key in record["varying"])
    return Row(point["number"], mark, settings, tuple(figure_text(point, name) for name in columns(record)))


def figure_text(point: Record, name: str) -> tuple[str, str]:
    """A point's figure and its interval as text."""
    value, interval = measured(point, name)
    if not math.isfinite(value):
        return "–", ""
    return metrics.format_figure(value, interval or (), metrics.style(name))


def sharing(results: Record) -> str:
    """The numbers of points and artifacts, such as '12 points from 4 sample, 4 select and 4 score'."""
    counts = results["counts"]
    parts = [f"{count} {name}" for name, count in counts["artifacts"].items()]
    text = ", ".join(parts[:-1]) + (f" and {parts[-1]}" if len(parts) > 1 else "".join(parts))
    return f"{counts['points']} points from {text}" if parts else f"{counts['points']} points"


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _chart(record: Record, points: Sequence[Record], group: Record, lines: Mapping[str, Sequence[Record]]) -> str:
    """Both axes against each other: lines along up to three settings, the other points, and the front."""
    x, y = map(parse_axis, record["axes"])
    drawn = dict(list(lines.items())[: svg.LINES])
    on_lines = {point["number"] for members in drawn.values() for point in members}
    labelled: set[int] = set()

    def marks(members: Sequence[Record], key: str = "") -> tuple[Mark, ...]:
        """Marks with the points' numbers, each once, and the setting of a line at its last point."""
        found = []
        for point in members:
            number, name = point["number"], ""
            if number not in labelled and len(points) <= MOST_LABELS:
                name = str(number)
                labelled.add(number)
            if key and point is members[-1]:
                name = f"{number}: {label({key: point['settings'][key]})}"
            (across, across_range), (up, up_range) = measured(point, x.name), measured(point, y.name)
            texts = [f"{title(axis.name)} {' ['.join(filter(None, figure_text(point, axis.name)))}" for axis in (x, y)]
            note = f"point {number} ({point['label']}): " + ", ".join(t + "]" if " [" in t else t for t in texts)
            found.append(Mark(across, up, name, across_range, up_range, number == group["best"], note))
        return tuple(found)

    front = [point for number in group["front"] for point in points if point["number"] == number]
    series = [Series(marks([point for point in points if point["number"] not in on_lines]), svg.REST, joined=False)]
    series += [Series(marks(members, key), shape) for shape, (key, members) in enumerate(drawn.items())]
    series.append(Series(tuple(Mark(measured(p, x.name)[0], measured(p, y.name)[0]) for p in front), svg.FRONT))
    along = ", ".join(map(short_name, drawn)) or "one setting"
    text = f"{title(y.name)} against {title(x.name)}, {len(points)} points over {along}"
    names = [f"{title(axis.name)} ({'more' if axis.sign > 0 else 'less'} is better)" for axis in (x, y)]
    return charts.scatter(series, f"{names[0]} →", f"↑ {names[1]}", text, metrics.style(x.name) == "share")


def _legend(record: Record, lines: Mapping[str, Sequence[Record]], count: int) -> tuple[tuple[str, str], ...]:
    entries = []
    for shape, (key, members) in enumerate(list(lines.items())[: svg.LINES]):
        first, last = (format_value(point["settings"][key]) for point in (members[0], members[-1]))
        fixed = _fixed(record, members[0], key)
        text = f"{short_name(key)} from {first} to {last}{' at ' if fixed else ''}{fixed}"
        entries.append((svg.legend_key(shape), text))
    if len({point["number"] for members in lines.values() for point in members}) < count:
        entries.append((svg.legend_key(svg.REST), "other points"))
    return (*entries, (svg.legend_key(svg.FRONT), "front: no point is better on both axes"))


def _small_charts(record: Record, group: Record, lines: Mapping[str, Sequence[Record]]) -> Iterator[tuple[str, str]]:
    """The second axis and the accuracy (or the first axis) over each setting: (caption, SVG)."""
    x, y = (parse_axis(text).name for text in record["axes"])
    accuracy = "conditional_accuracy"
    second = accuracy if any(accuracy in point["figures"] for point in record["points"]) else x
    for shape, (key, members) in enumerate(lines.items()):
        fixed = _fixed(record, members[0], key)
        for name in dict.fromkeys((y, second)):
            marks = []
            for point in members:
                value, interval = measured(point, name)
                text = format_value(point["settings"][key])
                note = f"{short_name(key)} {text}: {' ['.join(filter(None, figure_text(point, name)))}"
                note += "]" if " [" in note else ""
                marks.append(Mark(0, value, text, None, interval, point["number"] == group["best"], note))
            caption = f"{title(name)} over {short_name(key)}" + (f" ({fixed})" if fixed else "")
            drawn = charts.setting_chart(marks, caption, min(shape, svg.REST), metrics.style(name) == "share")
            if drawn:
                yield caption, drawn


def _fixed(record: Record, point: Record, key: str) -> str:
    """The point's settings but `key` as text."""
    return label({name: point["settings"][name] for name in record["varying"] if name in {*point["settings"]} - {key}})


def _best(record: Record, points: Sequence[Record], group: Record) -> str:
    """The best point, the rule, and the conclusion that intervals allow; the best of many estimates is biased."""
    best = next((point for point in points if point["number"] == group["best"]), None)
    if best is None:
        return ""
    name = parse_axis(record["axes"][1]).name
    interval = measured(best, name)[1]
    rule = re.sub(r"\w+", lambda word: title(word[0]) if word[0] in best["figures"] else word[0], record["best_rule"])
    text = f"Best: point {best['number']} ({best['label']}). {rule}"
    if name not in best["figures"]:
        return text
    text += f" Its {title(name)} is {figure_text(best, name)[0]}"
    if interval is None:
        return f"{text}; no interval is given, so how far it is ahead is not known."
    near = 0
    for other in points:
        ends = measured(other, name)[1]
        near += other is not best and ends is not None and ends[0] <= interval[1] and ends[1] >= interval[0]
    verb = f"overlaps with {f'those of {near} other points' if near > 1 else 'that of 1 other point'}"
    return f"{text}; its interval {verb if near else 'overlaps with no other'}."
