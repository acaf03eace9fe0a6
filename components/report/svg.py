"""Small line charts as inline SVG; colours come from the page's style, so they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH, HEIGHT = 320, 176
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 24

Point = tuple[float, float]


@dataclass(frozen=True)
class Frame:
    """The plotting area: data ranges and their map to pixels."""

    low: Point
    high: Point

    def x(self, value: float) -> float:
        """Pixel of a horizontal value."""
        return LEFT + (value - self.low[0]) / (self.high[0] - self.low[0]) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Pixel of a vertical value; larger values lie higher."""
        return HEIGHT - BOTTOM - (value - self.low[1]) / (self.high[1] - self.low[1]) * (HEIGHT - TOP - BOTTOM)


def curve(points: Sequence[Point], label: str) -> str:
    """A training curve: the points as a faint line and their moving average as a strong one.

    Points whose value is not finite are left out; without any, the empty string.
    """
    kept = thinned([point for point in points if math.isfinite(point[1])])
    if not kept:
        return ""
    values = [value for _, value in kept]
    frame = _frame((kept[0][0], kept[-1][0]), (min(values), max(values)))
    body = _axes(frame, "step " + count(kept[-1][0]))
    if len(kept) > 1:
        body += f'<path class="raw" d="{_path(frame, kept)}"/><path class="line" d="{_path(frame, smoothed(kept))}"/>'
    else:
        body += f'<circle class="dot" cx="{frame.x(kept[0][0]):.1f}" cy="{frame.y(kept[0][1]):.1f}" r="3"/>'
    return _svg(body, f"{label} up to step {count(kept[-1][0])}, from {short(values[0])} to {short(values[-1])}")


def marks(
    values: Sequence[float], labels: Sequence[str], baseline: float | None, label: str, second: Sequence[float] = ()
) -> str:
    """Shares in [0, 1] as joined dots, the highest one marked, `second` as another line, `baseline` as a dashed one.

    Dots and not bars, because the axis starts near the lowest value, where lengths would mislead.
    """
    known = [*values, *second, *([] if baseline is None else [baseline])]
    frame = _frame((-0.5, len(values) - 0.5), (min(known), min(1.0, max(known) + 0.02)))
    best = max(range(len(values)), key=values.__getitem__)
    body = _axes(frame, "")
    if baseline is not None:
        y = frame.y(baseline)
        body += f'<line class="baseline" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    if second:
        body += f'<path class="line second" d="{_path(frame, [(float(i), value) for i, value in enumerate(second)])}"/>'
    points = [(float(i), value) for i, value in enumerate(values)]
    body += f'<path class="line" d="{_path(frame, points)}"/>'
    for i, value in points:
        name, radius = ("dot best", 5) if i == best else ("dot", 3)
        body += f'<circle class="{name}" cx="{frame.x(i):.1f}" cy="{frame.y(value):.1f}" r="{radius}"/>'
        if int(i) % (len(values) // 13 + 1) == 0:
            body += _text(frame.x(i), HEIGHT - 8, labels[int(i)], "middle")
    return _svg(body, label)


def thinned(points: Sequence[Point], most: int = 240) -> list[Point]:
    """At most `most` points: neighbours are averaged; the last point keeps its step."""
    if len(points) <= most:
        return list(points)
    edges = [i * len(points) // most for i in range(most + 1)]
    groups = [points[a:b] for a, b in pairwise(edges)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def smoothed(points: Sequence[Point], most: float = 0.8) -> list[Point]:
    """Exponential moving average, corrected for its start; few points are smoothed less, or it would lag behind."""
    weight = min(most, len(points) / 100)
    total, scale, out = 0.0, 0.0, []
    for step, value in points:
        total, scale = weight * total + (1 - weight) * value, weight * scale + (1 - weight)
        out.append((step, total / scale))
    return out


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    span = (high - low) / most
    power = 10.0 ** math.floor(math.log10(span))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= span * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def short(value: float) -> str:
    """A number for an axis, without needless digits."""
    return f"{value:.3g}" if abs(value) < 1000 else count(value)


def count(value: float) -> str:
    """A whole number with separators."""
    return f"{round(value):,}"


def _frame(xs: Point, ys: Point) -> Frame:
    pad = (ys[1] - ys[0]) * 0.06 or abs(ys[0]) * 0.1 or 1.0
    return Frame((xs[0], ys[0] - pad), (xs[1] if xs[1] > xs[0] else xs[0] + 1, ys[1] + pad))


def _axes(frame: Frame, right: str) -> str:
    body = ""
    for value in ticks(frame.low[1], frame.high[1]):
        y = frame.y(value)
        body += f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        body += _text(LEFT - 6, y + 3.5, short(value), "end")
    return body + (_text(WIDTH - RIGHT, HEIGHT - 8, right, "end") if right else "")


def _path(frame: Frame, points: Sequence[Point]) -> str:
    return "M" + " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(body: str, label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{body}</svg>'
