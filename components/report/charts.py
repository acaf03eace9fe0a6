"""Charts as inline SVG; colours come from the page's style, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import pairwise

WIDTH, HEIGHT = 320, 176
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 24
"""Size and margins of a small chart in its own units; the page scales it."""
LARGE_WIDTH, LARGE_HEIGHT = 560, 340
LARGE_LEFT, LARGE_RIGHT, LARGE_TOP, LARGE_BOTTOM = 52, 22, 22, 44

SYMBOLS = ("circle", "square", "triangle", "circle", "line")
LINES, REST, FRONT = 3, 3, 4
"""Shapes below `LINES` are of lines through points, `REST` of points on no line, `FRONT` of a line without points."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """One measured point: its position, its interval on either axis (or none), and its label."""

    x: float
    y: float
    label: str = ""
    x_range: Point | None = None
    y_range: Point | None = None
    best: bool = False


@dataclass(frozen=True)
class Series:
    """Points joined by a line, in the order given; `shape` sets colour and form: 0 to 2, `REST` or `FRONT`."""

    marks: tuple[Mark, ...]
    shape: int = 0
    joined: bool = True


@dataclass(frozen=True)
class Frame:
    """A plotting area: data ranges, and the pixels of its four sides."""

    low: Point
    high: Point
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM

    def x(self, value: float) -> float:
        """Pixel of a horizontal value."""
        return self.left + (value - self.low[0]) / (self.high[0] - self.low[0]) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Pixel of a vertical value; larger values lie higher."""
        return self.bottom - (value - self.low[1]) / (self.high[1] - self.low[1]) * (self.bottom - self.top)


def line_chart(points: Sequence[Point], label: str) -> str:
    """A training curve: (step, value) points as a faint line and their moving average as a strong one.

    Points whose value is not finite are left out; without any, the empty string.
    """
    shown = thinned([point for point in points if math.isfinite(point[1])])
    if not shown:
        return ""
    (first, *_), (last, *_) = shown[0], shown[-1]
    low, high = _padded((value for _, value in shown), 0.06)
    frame = Frame((first, low), (last if last > first else first + 1, high))
    body = _y_axis(frame) + _text(WIDTH - RIGHT, HEIGHT - 8, f"step {round(last):,}", "end")
    if len(shown) > 1:
        body += f'<path class="raw" d="{_path(frame, shown)}"/><path class="line" d="{_path(frame, smoothed(shown))}"/>'
    else:
        body += f'<circle class="dot" cx="{frame.x(first):.1f}" cy="{frame.y(shown[0][1]):.1f}" r="3"/>'
    start, end = (f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}" for value in (shown[0][1], shown[-1][1]))
    return _svg(body, f"{label} up to step {round(last):,}, from {start} to {end}")


def block_chart(shares: Sequence[float], baseline: float | None, label: str, second: Sequence[float] = ()) -> str:
    """Shares in [0, 1] by block as joined dots, the highest one marked.

    `second` is another line, `baseline` a dashed one. Dots and not bars, because the axis starts near the lowest value,
    where lengths would mislead.
    """
    values = [*shares, *second, *([] if baseline is None else [baseline])]
    low, high = _padded([min(values), min(1.0, max(values) + 0.02)], 0.06)
    frame = Frame((-0.5, low), (len(shares) - 0.5, high))
    best = max(range(len(shares)), key=shares.__getitem__)
    body = _y_axis(frame)
    if baseline is not None:
        body += _line("baseline", frame.left, frame.y(baseline), frame.right, frame.y(baseline))
    if second:
        body += f'<path class="line second" d="{_path(frame, list(enumerate(second)))}"/>'
    body += f'<path class="line" d="{_path(frame, list(enumerate(shares)))}"/>'
    for i, value in enumerate(shares):
        name, radius = ("dot best", 5) if i == best else ("dot", 3)
        body += f'<circle class="{name}" cx="{frame.x(i):.1f}" cy="{frame.y(value):.1f}" r="{radius}"/>'
        if i % (len(shares) // 13 + 1) == 0:
            body += _text(frame.x(i), HEIGHT - 8, str(i), "middle")
    return _svg(body, label)


def setting_chart(marks: Sequence[Mark], label: str, shape: int = 0, shares: bool = False) -> str:
    """A small chart of one quantity over one setting: dots with their intervals, the settings' labels below.

    Settings are placed at equal distances, because they are chosen, not measured.
    """
    finite = [mark for mark in marks if math.isfinite(mark.y)]
    if not finite:
        return ""
    placed = tuple(Mark(float(i), m.y, m.label, None, m.y_range, m.best) for i, m in enumerate(finite))
    low, high = _padded(_ends(placed), 0.08)
    frame = Frame((-0.5, low), (len(placed) - 0.5, high))
    body = _y_axis(frame, shares) + _series(Series(placed, shape), frame, labels=False)
    for i, mark in enumerate(placed):
        if i % (len(placed) // 9 + 1) == 0:
            body += _text(frame.x(i), HEIGHT - 8, mark.label, "middle")
    return _svg(body, label)


def scatter(series: Sequence[Series], x_name: str, y_name: str, label: str, shares: bool = False) -> str:
    """The large chart: two measured quantities against each other, series told apart by form and colour.

    With `shares` the horizontal axis is in percent. Points whose values are not finite are left out.
    """
    finite = [
        replace(line, marks=tuple(m for m in line.marks if math.isfinite(m.x) and math.isfinite(m.y)))
        for line in series
    ]
    marks = [mark for line in finite for mark in line.marks]
    if not marks:
        return ""
    left, right = _padded((end for mark in marks for end in (mark.x, *(mark.x_range or ()))), 0.06)
    low, high = _padded(_ends(marks), 0.08)
    frame = Frame(
        (left, low), (right, high), LARGE_LEFT, LARGE_WIDTH - LARGE_RIGHT, LARGE_TOP, LARGE_HEIGHT - LARGE_BOTTOM
    )
    body = _y_axis(frame)
    for value, text in _tick_labels(left, right, shares):
        x = frame.x(value)
        body += _line("grid", x, frame.top, x, frame.bottom) + _text(x, frame.bottom + 14, text, "middle")
    body += _text(frame.right, LARGE_HEIGHT - 6, x_name, "end") + _text(frame.left, 11, y_name, "start")
    for line in finite:
        body += _series(line, frame)
    return _svg(body, label, LARGE_WIDTH, LARGE_HEIGHT)


def legend_key(shape: int) -> str:
    """The symbol of a series, for a legend."""
    return f'<svg class="key s{shape}" viewBox="0 0 12 12" aria-hidden="true">{_symbol(shape, 6, 6, 4.5)}</svg>'


def thinned(points: Sequence[Point], most: int = 240) -> list[Point]:
    """At most `most` points: neighbours are averaged; the last point keeps its step."""
    if len(points) <= most:
        return list(points)
    edges = [i * len(points) // most for i in range(most + 1)]
    groups = [points[a:b] for a, b in pairwise(edges)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def smoothed(points: Sequence[Point], most: float = 0.8) -> list[Point]:
    """Exponential moving average, corrected for its start; few points are smoothed less, to avoid a lag."""
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


def _tick_labels(low: float, high: float, shares: bool) -> list[tuple[float, str]]:
    """Round numbers within [low, high] with as many decimals as tell them apart."""
    values = ticks(low, high)
    scale, unit = (100, " %") if shares else (1, "")
    step = scale * (values[1] - values[0]) if len(values) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [(value, f"{scale * value:,.{decimals}f}{unit}") for value in values]


def _padded(values: Iterable[float], share: float) -> Point:
    """The range of the values, wider by a share of it on each side."""
    known = list(values)
    pad = (max(known) - min(known)) * share or abs(known[0]) * 0.1 or 1.0
    return min(known) - pad, max(known) + pad


def _ends(marks: Sequence[Mark]) -> list[float]:
    return [end for mark in marks for end in (mark.y, *(mark.y_range or ()))]


def _y_axis(frame: Frame, shares: bool = False) -> str:
    body = ""
    for value, text in _tick_labels(frame.low[1], frame.high[1], shares):
        y = frame.y(value)
        body += _line("grid", frame.left, y, frame.right, y) + _text(frame.left - 6, y + 3.5, text, "end")
    return body


def _series(series: Series, frame: Frame, labels: bool = True) -> str:
    body = ""
    if series.joined and len(series.marks) > 1:
        body += f'<path class="joined" d="{_path(frame, [(mark.x, mark.y) for mark in series.marks])}"/>'
    for mark in series.marks if series.shape != FRONT else ():
        x, y = frame.x(mark.x), frame.y(mark.y)
        if mark.y_range:
            body += _line("bar", x, frame.y(mark.y_range[0]), x, frame.y(mark.y_range[1]))
        if mark.x_range:
            body += _line("bar", frame.x(mark.x_range[0]), y, frame.x(mark.x_range[1]), y)
        if mark.best:
            body += f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="8"/>'
        body += _symbol(series.shape, x, y, 4)
    for mark in series.marks if labels else ():
        if mark.label:
            left = frame.x(mark.x) > (frame.left + frame.right) / 2
            x = frame.x(mark.x) + (-9 if left else 9)
            body += _text(x, frame.y(mark.y) - 8, mark.label, "end" if left else "start")
    return f'<g class="s{series.shape}">{body}</g>'


def _symbol(shape: int, x: float, y: float, r: float) -> str:
    if SYMBOLS[shape] == "square":
        half = 0.9 * r
        box = f'x="{x - half:.1f}" y="{y - half:.1f}" width="{2 * half:.1f}" height="{2 * half:.1f}"'
        return f'<rect class="dot" {box}/>'
    if SYMBOLS[shape] == "line":
        return f'<path class="joined" d="M{x - 1.3 * r:.1f},{y:.1f}H{x + 1.3 * r:.1f}"/>'
    if SYMBOLS[shape] == "triangle":
        corners = ((x, y - 1.2 * r), (x + 1.1 * r, y + r), (x - 1.1 * r, y + r))
        return f'<path class="dot" d="M{" ".join(f"{a:.1f},{b:.1f}" for a, b in corners)}Z"/>'
    return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'


def _path(frame: Frame, points: Sequence[Point]) -> str:
    return "M" + " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)


def _line(name: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(body: str, label: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{body}</svg>'
