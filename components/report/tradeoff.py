"""The trade-off section: distance against recognisability over temperature, guidance and acceptance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from components.report import plots
from components.report.plots import Mark, Series

SETTINGS = ("guidance", "acceptance", "temperature")
USUAL = 1.0
"""What each setting is when it is left alone."""

ACROSS = ("is", "accuracy")
"""What the distance is plotted against: the Inception Score (or its like) where it was measured, else accuracy."""


@dataclass(frozen=True)
class Cell:
    """One figure with its interval, as people read it."""

    value: str
    interval: str = ""


@dataclass(frozen=True)
class Section:
    """What the template shows: the large chart with its legend, small charts, and the table of points.

    `best` describes the point of the smallest distance, `locations` say where along guidance it is smallest.
    """

    chart: str
    legend: tuple[tuple[str, str], ...]
    small: tuple[tuple[str, str], ...]
    head: tuple[str, ...]
    rows: tuple[tuple[tuple[Cell, ...], bool], ...]
    best: str
    locations: tuple[str, ...]
    notes: tuple[str, ...]


Measured = Mapping[str, Any]


def section(record: Mapping[str, Any] | None) -> Section | None:
    """The section for the content of `tradeoff.json`, or None without points."""
    points: list[Measured] = list((record or {}).get("points", []))
    if record is None or not points:
        return None
    best = record.get("best")
    lines = {name: line(points, name) for name in SETTINGS}
    lines = {name: found for name, found in lines.items() if len(found) > 1}
    across = next((name for name in ACROSS if any(name in point for point in points)), "")
    names = names_of(record)
    chart = _chart(points, lines, best, across, names) if across else ""
    columns = [name for name in ("accuracy", "fd", "is") if any(name in point for point in points)]
    return Section(
        chart,
        tuple((plots.key(SETTINGS.index(name)), _legend(name, found)) for name, found in lines.items()),
        tuple(_small(points, lines, best, names)),
        (*SETTINGS, "samples", *(names[name] for name in columns)),
        tuple((_row(point, columns), i == best) for i, point in enumerate(points)),
        _best(points, best, names["fd"]),
        tuple(locations(record, names["fd"])),
        tuple(_notes(record)),
    )


def line(points: Sequence[Measured], name: str) -> list[Measured]:
    """The longest series along one setting with the others fixed, from loose to strict.

    Of series of one length, the one at the most usual values is taken.
    """
    others = [other for other in SETTINGS if other != name]
    groups: dict[tuple[float, ...], dict[float, Measured]] = {}
    for point in points:
        fixed = tuple(_setting(point, other) for other in others)
        groups.setdefault(fixed, {}).setdefault(_setting(point, name), point)
    away = {fixed: sum(abs(value - USUAL) for value in fixed) for fixed in groups}
    chosen = max(groups, key=lambda fixed: (len(groups[fixed]), -away[fixed]))
    return [groups[chosen][value] for value in sorted(groups[chosen], reverse=name == "acceptance")]


def interval(point: Measured, name: str) -> tuple[float, float] | None:
    """The bounds of a point's figure, or None where it has none that are finite."""
    low, high = point.get(f"{name}_low"), point.get(f"{name}_high")
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return None
    return float(low), float(high)


def names_of(record: Mapping[str, Any]) -> dict[str, str]:
    """What the figures are called by the network they come from: FID and IS only where the record says so."""
    given = record.get("figures", {})
    usual = {"accuracy": "conditional_accuracy", "fd": "Fréchet distance", "is": "score"}
    return {name: _title(str(given.get(name, text))) for name, text in usual.items()}


def locations(record: Mapping[str, Any], distance: str) -> list[str]:
    """The best guidance at each temperature and acceptance in a sentence, with the interval of its place."""
    out = []
    for place in record.get("best_guidance", []):
        text = f"At acceptance {place['acceptance']:g} and temperature {place['temperature']:g}, {distance} is smallest"
        text += f" at guidance {place['guidance']:g} (interval {place['low']:g} to {place['high']:g})"
        out.append(text + ("." if place.get("inside", True) else "; the sweep ends there, so the best may lie beyond."))
    return out


def _title(name: str) -> str:
    """A figure's name on the page."""
    return {"fid": "FID", "is": "Inception Score", "conditional_accuracy": "accuracy"}.get(name, name)


def _setting(point: Measured, name: str) -> float:
    return float(point.get(name, USUAL))


def _value(point: Measured, name: str) -> float:
    value = point.get(name)
    return math.nan if value is None else float(value)


def _marks(points: Sequence[Measured], across: str, best: Measured | None) -> tuple[Mark, ...]:
    return tuple(
        Mark(
            _value(point, across),
            _value(point, "fd"),
            "",
            interval(point, across),
            interval(point, "fd"),
            point is best,
        )
        for point in points
    )


def _chart(
    points: Sequence[Measured],
    lines: Mapping[str, list[Measured]],
    best: int | None,
    across: str,
    names: Mapping[str, str],
) -> str:
    marked = points[best] if isinstance(best, int) and 0 <= best < len(points) else None
    drawn = {id(point) for found in lines.values() for point in found}
    rest = [point for point in points if id(point) not in drawn]
    series = [Series(_marks(rest, across, marked), plots.REST, joined=False)] if rest else []
    for name, found in lines.items():
        series.append(Series(_named(_marks(found, across, marked), found, name), SETTINGS.index(name)))
    text = f"{names['fd']} against {names[across]}, {len(points)} points over {', '.join(lines) or 'one setting'}"
    return plots.scatter(series, f"{names[across]} →", f"↑ {names['fd']}", text, shares=across == "accuracy")


def _named(marks: Sequence[Mark], found: Sequence[Measured], name: str) -> tuple[Mark, ...]:
    """The last mark of a line with its setting as label: more labels would lie over each other."""
    return (*marks[:-1], replace(marks[-1], label=f"{name} {_setting(found[-1], name):g}"))


def _small(
    points: Sequence[Measured], lines: Mapping[str, list[Measured]], best: int | None, names: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Each figure over each setting: (caption, SVG)."""
    marked = points[best] if isinstance(best, int) and 0 <= best < len(points) else None
    charts = []
    for name, found in lines.items():
        for quantity in ("fd", "accuracy"):
            marks = [
                Mark(0, _value(p, quantity), f"{_setting(p, name):g}", None, interval(p, quantity), p is marked)
                for p in found
            ]
            text = f"{names[quantity]} over {name}, {_fixed(found, name)}"
            share = quantity == "accuracy"
            drawn = plots.ranged(marks, text, SETTINGS.index(name), share)
            if drawn:
                charts.append((f"{names[quantity]} over {name} ({_fixed(found, name)})", drawn))
    return charts


def _legend(name: str, found: Sequence[Measured]) -> str:
    values = [_setting(point, name) for point in found]
    return f"{name} from {values[0]:g} to {values[-1]:g} at {_fixed(found, name)}"


def _fixed(found: Sequence[Measured], name: str) -> str:
    return ", ".join(f"{other} {_setting(found[0], other):g}" for other in SETTINGS if other != name)


def _row(point: Measured, columns: Sequence[str]) -> tuple[Cell, ...]:
    settings = [Cell(f"{_setting(point, name):g}") for name in SETTINGS]
    count = Cell(f"{int(point['count']):,}" if "count" in point else "–")
    return (*settings, count, *(_cell(point, name) for name in columns))


def _cell(point: Measured, name: str) -> Cell:
    value, bounds = _value(point, name), interval(point, name)
    if not math.isfinite(value):
        return Cell("–")
    scale, unit, digits = (100, " %", 1) if name == "accuracy" else (1, "", 3)
    text = f"{scale * value:.{digits}f}{unit}"
    return Cell(text, f"{scale * bounds[0]:.{digits}f} to {scale * bounds[1]:.{digits}f}" if bounds else "")


def _best(points: Sequence[Measured], best: Any, distance: str) -> str:
    """The best point in a sentence, with what its interval allows to say; the least of many is biased low."""
    if not isinstance(best, int) or not 0 <= best < len(points):
        return ""
    point, settings = points[best], ", ".join(f"{name} {_setting(points[best], name):g}" for name in SETTINGS)
    cell, bounds = _cell(point, "fd"), interval(point, "fd")
    text = f"The smallest {distance}, {cell.value}, was measured at {settings}"
    if bounds is None:
        return f"{text}; no interval is given, so how far it is ahead is not known."
    others = [interval(other, "fd") for i, other in enumerate(points) if i != best]
    near = sum(other is not None and other[0] <= bounds[1] for other in others)
    if near:
        verb = "intervals of" if near > 1 else "interval of"
        return (
            f"{text}; the {verb} {near} other point{'s' if near > 1 else ''} overlap{'' if near > 1 else 's'} its own."
        )
    return f"{text}; its interval overlaps with no other."


def _notes(record: Mapping[str, Any]) -> list[str]:
    """Who judged, who selected, and the protocol's plain values."""
    roles = (("judge", "judged by"), ("selector", "selected by"))
    notes = [f"{text} {str(record[name])[:12]}" for name, text in roles if record.get(name)]
    protocol = record.get("protocol")
    if not isinstance(protocol, Mapping):
        return notes + ([str(protocol)] if protocol else [])
    plain = {key: value for key, value in protocol.items() if isinstance(value, str | int | float)}
    return notes + [f"{key.replace('_', ' ')} {value}" for key, value in plain.items() if "digest" not in key]
