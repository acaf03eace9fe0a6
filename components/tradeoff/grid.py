"""Points of a grid over sampling settings: the sets of candidates that they share, the Pareto front, the best."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vim_core.errors import ConfigError

TEMPERATURE, GUIDANCE, ACCEPTANCE = "temperature", "guidance", "acceptance"
Settings = Mapping[str, Any]
Pair = tuple[float, float]
PointRecord = Mapping[str, Any]
"""A point as in a sweep's `results.json`: `number`, `label`, `settings`, `figures` (`value`, `low`, `high`) by name."""


@dataclass(frozen=True)
class Point:
    """One combination of settings: its number from 1, the settings that vary over the grid, and all that are given."""

    number: int
    varying: Settings
    settings: Settings

    @property
    def key(self) -> str:
        """12 hex digits of the settings: the same point in every run of the grid."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def label(self) -> str:
        """Text such as `guidance 1.5, acceptance 0.5`."""
        return label(self.varying)


def expand(grid: Mapping[str, Sequence[Any]], further: Sequence[Settings], fixed: Settings) -> list[Point]:
    """Every combination of the grid's values, the last setting varying fastest, then further points; none twice.

    `fixed` are settings that are the same for all points.
    """
    combined = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())] if grid else []
    unique: list[Settings] = []
    for varying in [*combined, *further]:
        if varying not in unique:
            unique.append(varying)
    return [Point(number, varying, {**fixed, **varying}) for number, varying in enumerate(unique, 1)]


def share_candidates(points: Sequence[Point], apart: Sequence[str] = (ACCEPTANCE,)) -> list[list[Point]]:
    """Groups of points that draw the same candidates: all that differ in the settings `apart` alone.

    A point without an acceptance rate keeps every candidate, so it has a set of its own.
    """
    groups: dict[str, list[Point]] = {}
    for point in points:
        drawn = {name: value for name, value in point.settings.items() if name not in apart}
        groups.setdefault(json.dumps([drawn, ACCEPTANCE in point.settings], sort_keys=True), []).append(point)
    return list(groups.values())


def candidate_count(count: int, rates: Sequence[float], classes: int) -> int:
    """Candidates that keep `count` images of every class at each acceptance rate: as many as the strictest takes."""
    from vim_core.sampling.rejection import candidates_needed

    return max(candidates_needed(count, rate) for rate in rates) * classes


def short_name(key: str) -> str:
    """The last part of a dotted key."""
    return key.rsplit(".", 1)[-1]


def format_value(value: Any) -> str:
    """A setting's value as text; a dash where it is not given."""
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def label(settings: Settings) -> str:
    """Settings as text, such as `guidance 1.5, acceptance 0.5`."""
    return ", ".join(f"{short_name(name)} {format_value(value)}" for name, value in settings.items())


class Axis(NamedTuple):
    """A figure or a setting, and whether more (`max`) or less (`min`) of it is better."""

    direction: str
    name: str

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.direction == "max" else -1


def parse_axis(text: str) -> Axis:
    """An axis such as `min fid`. Raises `ConfigError` for any other text."""
    words = text.split()
    if len(words) != 2 or words[0] not in ("max", "min"):
        raise ConfigError(f"axes={text!r}: must be '<max|min> <figure>', such as 'min fd_classifier'")
    return Axis(*words)


def default_axes(distance: str, score: str) -> list[str]:
    """The distance to real images against the Inception Score of the published network, or else against accuracy."""
    return [f"max {score if score == 'is' else 'conditional_accuracy'}", f"min {distance}"]


def measured(point: PointRecord, name: str) -> tuple[float, Pair | None]:
    """A figure with its interval, or a setting that is a number; not a number where the point has neither."""
    figure = point["figures"].get(name)
    if figure is not None:
        interval = (float(figure["low"]), float(figure["high"])) if {"low", "high"} <= set(figure) else None
        return float(figure["value"]), interval
    setting = point["settings"].get(name)
    is_number = isinstance(setting, int | float) and not isinstance(setting, bool)
    return (float(setting) if is_number else math.nan), None


def rank(points: Sequence[PointRecord], axes: Sequence[str], best: str = "") -> dict[str, Any]:
    """Numbers of comparable points, of those on the front, and of the best (None where none has the figure).

    `best` is an axis by which the best is chosen; where it is empty, the best is nearest to the ideal of both axes.
    """
    x, y = map(parse_axis, axes)
    signs = (x.sign, y.sign)
    known = [point for point in points if all(math.isfinite(measured(point, axis.name)[0]) for axis in (x, y))]
    pairs = [(measured(point, x.name)[0], measured(point, y.name)[0]) for point in known]
    chosen: PointRecord | None = None
    if best:
        axis = parse_axis(best)
        having = [point for point in points if math.isfinite(measured(point, axis.name)[0])]
        chosen = max(having, key=lambda point: axis.sign * measured(point, axis.name)[0], default=None)
    elif known:
        chosen = known[nearest_to_ideal(pairs, signs)]
    return {
        "points": [point["number"] for point in points],
        "front": [known[i]["number"] for i in pareto_front(pairs, signs)],
        "best": None if chosen is None else chosen["number"],
    }


def best_rule(best: str, axes: Sequence[str]) -> str:
    """The rule that `rank` chooses the best point by, as a sentence."""
    if best:
        axis = parse_axis(best)
        return f"The best point has the {'largest' if axis.direction == 'max' else 'smallest'} {axis.name}."
    x, y = map(parse_axis, axes)
    return (
        f"The best point is the one of the front that is nearest to the best {x.name} and the best {y.name} of the "
        "front, each scaled from its worst to its best there."
    )


def pareto_front(pairs: Sequence[Pair], signs: tuple[int, int]) -> list[int]:
    """Indices of the points that no other one beats, in the order of the first axis.

    One point beats another that it equals or surpasses on both axes and surpasses on one. `signs` are 1 where more is
    better and -1 where less is.
    """
    gains = [(signs[0] * x, signs[1] * y) for x, y in pairs]
    front: list[int] = []
    highest: Pair | None = None
    for i in sorted(range(len(pairs)), key=lambda i: (-gains[i][0], -gains[i][1])):
        # Descending in the first axis: a point is on the front if it exceeds all before it on the second; equals stay.
        if highest is None or gains[i][1] > highest[1] or gains[i] == highest:
            front.append(i)
            highest = gains[i]
    return sorted(front, key=lambda i: (pairs[i], i))


def nearest_to_ideal(pairs: Sequence[Pair], signs: tuple[int, int]) -> int:
    """The index of the point of the front that is nearest to the best of both axes.

    Each axis is scaled so that its worst and best point of the front are 0 and 1; of equals the first.
    """
    front = sorted(pareto_front(pairs, signs))
    columns = [[pairs[i][axis] for i in front] for axis in range(2)]

    def distance(i: int) -> float:
        total = 0.0
        for axis, values in enumerate(columns):
            low, high = min(values), max(values)
            ideal = high if signs[axis] > 0 else low
            total += ((pairs[i][axis] - ideal) / (high - low)) ** 2 if high > low else 0.0
        return total

    return min(front, key=lambda i: (distance(i), i))
