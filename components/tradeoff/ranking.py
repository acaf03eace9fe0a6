"""Points compared on two axes: those that no other beats (the Pareto front), and the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vim_core.errors import ConfigError

Pair = tuple[float, float]
PointRecord = Mapping[str, Any]
"""A point as in a sweep's `results.json`: `number`, `label`, `settings`, `figures` (`value`, `low`, `high`) by name."""


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
