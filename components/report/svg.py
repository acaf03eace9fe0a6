"""Parts of charts as inline SVG: frames, axes, series, labels; colours come from the page's style (light and dark)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 320, 176
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 24
"""Size and margins of a small chart in its own units; the page scales it."""

SYMBOLS = ("circle", "square", "triangle", "circle", "line")
LINES, REST, FRONT = 3, 3, 4
"""Shapes below `LINES` are of lines through points, `REST` of points on no line, `FRONT` of a line without points."""

LETTER, LABEL_HEIGHT = 5.6, 10.0
"""Size of a letter of the large chart's labels, for placing them apart."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """One measured point: its position, its interval on either axis (or none), its label; `note` is for the pointer."""

    x: float
    y: float
    label: str = ""
    x_range: Point | None = None
    y_range: Point | None = None
    best: bool = False
    note: str = ""


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


def legend_key(shape: int) -> str:
    """The symbol of a series, for a legend."""
    return f'<svg class="key s{shape}" viewBox="0 0 12 12" aria-hidden="true">{_symbol(shape, 6, 6, 4.5)}</svg>'


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    span = (high - low) / most
    power = 10.0 ** math.floor(math.log10(span))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= span * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def tick_labels(low: float, high: float, shares: bool) -> list[tuple[float, str]]:
    """Round numbers within [low, high] with as many decimals as tell them apart."""
    values = ticks(low, high)
    scale, unit = (100, " %") if shares else (1, "")
    step = scale * (values[1] - values[0]) if len(values) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [(value, f"{scale * value:,.{decimals}f}{unit}") for value in values]


def padded(values: Iterable[float], share: float) -> Point:
    """The range of the values, wider by a share of it on each side."""
    known = list(values)
    pad = (max(known) - min(known)) * share or abs(known[0]) * 0.1 or 1.0
    return min(known) - pad, max(known) + pad


def ends(marks: Sequence[Mark]) -> list[float]:
    """All vertical values with the ends of their intervals."""
    return [end for mark in marks for end in (mark.y, *(mark.y_range or ()))]


def y_axis(frame: Frame, shares: bool = False, logarithmic: bool = False) -> str:
    """Grid lines with their numbers; on a logarithmic axis the frame holds exponents of ten."""
    body, (low, high) = "", (frame.low[1], frame.high[1])
    labels = tick_labels(low, high, shares)
    if logarithmic:
        decades = range(math.ceil(low), math.floor(high) + 1)
        factors = (1, 2, 5) if len(decades) < 3 else (1,)
        exact = [factor * 10.0**power for power in range(math.floor(low), math.ceil(high)) for factor in factors]
        labels = [(math.log10(value), f"{value:,g}") for value in exact if low <= math.log10(value) <= high]
    for value, words in labels:
        y = frame.y(value)
        body += line("grid", frame.left, y, frame.right, y) + text(frame.left - 6, y + 3.5, words, "end")
    return body


def draw_series(series: Series, frame: Frame, labels: bool = True) -> str:
    """The line, intervals and symbols of a series, with its labels."""
    body = ""
    if series.joined and len(series.marks) > 1:
        body += f'<path class="joined" d="{path(frame, [(mark.x, mark.y) for mark in series.marks])}"/>'
    for mark in series.marks if series.shape != FRONT else ():
        x, y = frame.x(mark.x), frame.y(mark.y)
        drawn = ""
        if mark.y_range:
            drawn += line("bar", x, frame.y(mark.y_range[0]), x, frame.y(mark.y_range[1]))
        if mark.x_range:
            drawn += line("bar", frame.x(mark.x_range[0]), y, frame.x(mark.x_range[1]), y)
        if mark.best:
            drawn += f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="8"/>'
        body += noted(drawn + _symbol(series.shape, x, y, 4), mark.note)
    if labels:
        body += labels_apart(series.marks, frame)
    return f'<g class="s{series.shape}">{body}</g>'


def labels_apart(marks: Sequence[Mark], frame: Frame) -> str:
    """The marks' labels, each where it covers no other label, mark or edge; one without such a place is left out.

    What a label says stands under the pointer and in the table, too.
    """
    places = [(frame.x(mark.x), frame.y(mark.y)) for mark in marks]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    body = ""
    for own, (mark, (x, y)) in enumerate(zip(marks, places, strict=True)):
        width = LETTER * len(mark.label)
        for across, up in ((9, -4), (-9, -4), (9, 12), (-9, 12), (9, 4), (-9, 4), (0, -11), (0, 19)):
            left = x + across - (width if across < 0 else 0 if across else width / 2)
            box = (left, y + up - LABEL_HEIGHT, left + width, y + up + 2)
            inside = frame.left <= box[0] and box[2] <= frame.right and frame.top <= box[1] and box[3] <= frame.bottom
            others = (other for number, other in enumerate(taken) if number != own)
            if mark.label and inside and not any(_overlap(box, other) for other in others):
                taken.append(box)
                anchor = "end" if across < 0 else "start" if across else "middle"
                body += text(x + across, y + up, mark.label, anchor)
                break
    return body


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def noted(drawn: str, note: str) -> str:
    """A shape with what is shown when the pointer rests on it."""
    return f"<g>{drawn}<title>{escape(note)}</title></g>" if note else drawn


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


def path(frame: Frame, points: Sequence[Point]) -> str:
    """The `d` of a path through points."""
    return "M" + " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """A line; `kind` is its class in the style."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x: float, y: float, words: str, anchor: str) -> str:
    """Words at a place; `anchor` is start, middle or end."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def document(body: str, label: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    """A whole chart."""
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{body}</svg>'
