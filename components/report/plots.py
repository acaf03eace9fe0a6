"""Charts of measured points with their intervals, as inline SVG beside the curves of `svg.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from components.report.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Point, ticks

WIDE, TALL = 560, 340
"""Size of the large chart in its own units; the page scales it."""

SHAPES = ("circle", "square", "triangle", "circle", "line")
LINES, REST, FRONT = 3, 3, 4
"""Shapes below `LINES` are of lines through points, `REST` of points on no line, `FRONT` of a line without points."""


@dataclass(frozen=True)
class Mark:
    """One measured point: where it lies, its interval on either axis (or none), and its label."""

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


def ranged(marks: Sequence[Mark], label: str, shape: int = 0, shares: bool = False) -> str:
    """A small chart of one quantity over one setting: dots with their intervals; every setting is written below.

    Settings are set at equal distances, because they are chosen and not measured.
    """
    known = [mark for mark in marks if math.isfinite(mark.y)]
    if not known:
        return ""
    placed = [Mark(float(i), m.y, m.label, None, m.y_range, m.best) for i, m in enumerate(known)]
    frame = _frame(placed, (-0.5, len(placed) - 0.5), WIDTH, HEIGHT, LEFT, BOTTOM)
    body = _across(frame, shares) + _drawn(Series(tuple(placed), shape), frame, names=False)
    every = len(placed) // 9 + 1
    for i, mark in enumerate(placed):
        if i % every == 0:
            body += _text(frame.x(i), HEIGHT - 8, mark.label, "middle")
    return _svg(body, label, WIDTH, HEIGHT)


def scatter(series: Sequence[Series], x_name: str, y_name: str, label: str, shares: bool = False) -> str:
    """The large chart: two measured quantities against each other, series told apart by form and colour.

    With `shares` the horizontal axis is in percent. Points whose figures are not finite are left out.
    """
    kept = [Series(tuple(filter(_finite, one.marks)), one.shape, one.joined) for one in series]
    every = [mark for one in kept for mark in one.marks]
    if not every:
        return ""
    ends = [end for mark in every for end in (mark.x, *(mark.x_range or ()))]
    pad = (max(ends) - min(ends)) * 0.06 or abs(ends[0]) * 0.1 or 1.0
    frame = _frame(every, (min(ends) - pad, max(ends) + pad), WIDE, TALL, 52, 44)
    body = _across(frame) + _along(frame, shares)
    body += _text(frame.right, TALL - 6, x_name, "end") + _text(frame.left, 11, y_name, "start")
    for one in kept:
        body += _drawn(one, frame)
    return _svg(body, label, WIDE, TALL)


def key(shape: int) -> str:
    """The form of a series, for a legend."""
    return f'<svg class="key s{shape}" viewBox="0 0 12 12" aria-hidden="true">{_form(shape, 6, 6, 4.5, "dot")}</svg>'


@dataclass(frozen=True)
class _Frame:
    """A plotting area: data ranges, and the pixels of its four sides."""

    low: Point
    high: Point
    left: float
    right: float
    top: float
    bottom: float

    def x(self, value: float) -> float:
        """Pixel of a horizontal value."""
        return self.left + (value - self.low[0]) / (self.high[0] - self.low[0]) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Pixel of a vertical value; larger values lie higher."""
        return self.bottom - (value - self.low[1]) / (self.high[1] - self.low[1]) * (self.bottom - self.top)


def _frame(marks: Sequence[Mark], xs: Point, width: int, height: int, left: int, below: int) -> _Frame:
    ends = [end for mark in marks for end in (mark.y, *(mark.y_range or ()))]
    pad = (max(ends) - min(ends)) * 0.08 or abs(ends[0]) * 0.1 or 1.0
    top = TOP if width == WIDTH else 22
    low, high = (xs[0], min(ends) - pad), (xs[1], max(ends) + pad)
    right = width - (RIGHT if width == WIDTH else 22)
    return _Frame(low, high, left, right, top, height - below)


def _finite(mark: Mark) -> bool:
    return math.isfinite(mark.x) and math.isfinite(mark.y)


def _drawn(series: Series, frame: _Frame, names: bool = True) -> str:
    body = ""
    if series.joined and len(series.marks) > 1:
        path = " ".join(f"{frame.x(m.x):.1f},{frame.y(m.y):.1f}" for m in series.marks)
        body += f'<path class="joined" d="M{path}"/>'
    for mark in series.marks if series.shape != FRONT else ():
        x, y = frame.x(mark.x), frame.y(mark.y)
        if mark.y_range:
            body += _line("bar", x, frame.y(mark.y_range[0]), x, frame.y(mark.y_range[1]))
        if mark.x_range:
            body += _line("bar", frame.x(mark.x_range[0]), y, frame.x(mark.x_range[1]), y)
        if mark.best:
            body += f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="8"/>'
        body += _form(series.shape, x, y, 4, "dot")
    if names:
        for mark in series.marks:
            if mark.label:
                left = frame.x(mark.x) > (frame.left + frame.right) / 2
                x = frame.x(mark.x) + (-9 if left else 9)
                body += _text(x, frame.y(mark.y) - 8, mark.label, "end" if left else "start")
    return f'<g class="s{series.shape}">{body}</g>'


def _form(shape: int, x: float, y: float, r: float, name: str) -> str:
    if SHAPES[shape] == "square":
        half = 0.9 * r
        place = f'x="{x - half:.1f}" y="{y - half:.1f}" width="{2 * half:.1f}" height="{2 * half:.1f}"'
        return f'<rect class="{name}" {place}/>'
    if SHAPES[shape] == "line":
        return f'<path class="joined" d="M{x - 1.3 * r:.1f},{y:.1f}H{x + 1.3 * r:.1f}"/>'
    if SHAPES[shape] == "triangle":
        corners = ((x, y - 1.2 * r), (x + 1.1 * r, y + r), (x - 1.1 * r, y + r))
        return f'<path class="{name}" d="M{" ".join(f"{a:.1f},{b:.1f}" for a, b in corners)}Z"/>'
    return f'<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'


def _across(frame: _Frame, shares: bool = False) -> str:
    body = ""
    for value, text in _ticks(frame.low[1], frame.high[1], shares):
        y = frame.y(value)
        body += _line("grid", frame.left, y, frame.right, y) + _text(frame.left - 6, y + 3.5, text, "end")
    return body


def _along(frame: _Frame, shares: bool) -> str:
    body = ""
    for value, text in _ticks(frame.low[0], frame.high[0], shares):
        x, bottom = frame.x(value), frame.bottom
        body += _line("grid", x, frame.top, x, bottom) + _text(x, bottom + 14, text, "middle")
    return body


def _ticks(low: float, high: float, shares: bool) -> list[tuple[float, str]]:
    """Round numbers within [low, high] with as many decimals as tell them apart."""
    found = ticks(low, high)
    scale, unit = (100, " %") if shares else (1, "")
    step = scale * (found[1] - found[0]) if len(found) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [(value, f"{scale * value:,.{decimals}f}{unit}") for value in found]


def _line(name: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(body: str, label: str, width: int, height: int) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{body}</svg>'
