"""Charts as inline SVG, with their points as CSV: training curves, accuracies by block, settings, scatter plots.

Own SVG and not a plotting library's: colours follow the page into dark mode, every point names itself under the pointer
and to a screen reader, and a chart is some kilobytes.
"""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

from components.report import svg
from components.report.svg import Frame, Mark, Point, Series

LARGE_WIDTH, LARGE_HEIGHT = 560, 340
LARGE_LEFT, LARGE_RIGHT, LARGE_TOP, LARGE_BOTTOM = 52, 22, 22, 44
LOGARITHMIC = 30.0
"""Ratio of the largest to the smallest value from which the axis of a curve is logarithmic, if all are positive."""
HOVERED = 60
"""Most points of a curve that show their value under the pointer."""
STYLE = Path(__file__).parent / "templates" / "chart.css"
"""Style of a chart that is downloaded: the page's, in its light colours."""


class Chart(str):
    """A chart as inline SVG with its points as CSV, which the page offers as files."""

    csv: str

    def __new__(cls, svg: str, csv: str) -> Chart:
        """The SVG is the text itself."""
        chart = super().__new__(cls, svg)
        chart.csv = csv
        return chart

    @property
    def svg_uri(self) -> str:
        """The chart as a file of its own, as a data address."""
        whole = self.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
        start = whole.index(">") + 1
        styled = f"{whole[:start]}<style>{STYLE.read_text()}</style>{whole[start:]}"
        return "data:image/svg+xml;base64," + base64.b64encode(styled.encode()).decode()

    @property
    def csv_uri(self) -> str:
        """Its points as a CSV file, as a data address."""
        return "data:text/csv;charset=utf-8," + quote(self.csv)


NOTHING = Chart("", "")
"""The chart of no points."""


def line_chart(points: Sequence[Point], label: str, held_out: Sequence[Point] = ()) -> Chart:
    """A training curve: (step, value) points as a faint line and their moving average as a strong one.

    `held_out` is the same quantity on held-out images, as dots on a line of their own. The axis is logarithmic where
    the values span more than `LOGARITHMIC`. Points whose value is not finite are left out; without any, it is empty.
    """
    shown = thinned([point for point in points if math.isfinite(point[1])])
    other = thinned([point for point in held_out if math.isfinite(point[1])], HOVERED)
    every = [*shown, *other]
    if not every:
        return NOTHING
    steps, values = [step for step, _ in every], [value for _, value in every]
    logarithmic = min(values) > 0 and max(values) / min(values) > LOGARITHMIC
    scale = math.log10 if logarithmic else float
    low, high = svg.padded(map(scale, values), 0.06)
    first, last = min(steps), max(steps)
    frame = Frame((first, low), (last if last > first else first + 1, high))
    body = svg.y_axis(frame, logarithmic=logarithmic)
    body += svg.text(svg.WIDTH - svg.RIGHT, svg.HEIGHT - 8, f"step {round(last):,}", "end")

    def scaled(line: Sequence[Point]) -> list[Point]:
        return [(step, scale(value)) for step, value in line]

    if len(shown) > 1:
        strong = scaled(smoothed(shown))
        body += f'<path class="raw" d="{svg.path(frame, scaled(shown))}"/>'
        body += f'<path class="line" d="{svg.path(frame, strong)}"/>'
        body += _hover(frame, scaled(thinned(shown, HOVERED)), thinned(shown, HOVERED))
    elif shown:
        body += f'<circle class="dot" cx="{frame.x(first):.1f}" cy="{frame.y(scale(shown[0][1])):.1f}" r="3"/>'
    if other:
        notes = [f"held-out, step {round(step):,}: {_short(value)}" for step, value in other]
        marks = tuple(Mark(*point, note=note) for point, note in zip(scaled(other), notes, strict=True))
        body += svg.draw_series(Series(marks, 1), frame, labels=False)
    ends = shown or other
    text = f"{label} up to step {round(last):,}, from {_short(ends[0][1])} to {_short(ends[-1][1])}"
    if shown and other:
        text += f"; held-out at last {_short(other[-1][1])}"
    rows = [("training", *point) for point in shown] + [("held-out", *point) for point in other]
    return Chart(svg.document(body, text), _csv(("series", "step", "value"), rows))


def block_chart(shares: Sequence[float], baseline: float | None, label: str, second: Sequence[float] = ()) -> Chart:
    """Shares in [0, 1] by block as joined dots, the highest one marked.

    `second` is another line, `baseline` a dashed one. Dots and not bars, because the axis starts near the lowest value,
    where lengths would mislead.
    """
    values = [*shares, *second, *([] if baseline is None else [baseline])]
    low, high = svg.padded([min(values), min(1.0, max(values) + 0.02)], 0.06)
    frame = Frame((-0.5, low), (len(shares) - 0.5, high))
    best = max(range(len(shares)), key=shares.__getitem__)
    body = svg.y_axis(frame)
    if baseline is not None:
        body += svg.line("baseline", frame.left, frame.y(baseline), frame.right, frame.y(baseline))
    if second:
        body += f'<path class="line second" d="{svg.path(frame, list(enumerate(second)))}"/>'
    body += f'<path class="line" d="{svg.path(frame, list(enumerate(shares)))}"/>'
    for i, value in enumerate(shares):
        name, radius = ("dot best", 5) if i == best else ("dot", 3)
        dot = f'<circle class="{name}" cx="{frame.x(i):.1f}" cy="{frame.y(value):.1f}" r="{radius}"/>'
        body += svg.noted(dot, f"block {i}: {100 * value:.1f} %")
        if i % (len(shares) // 13 + 1) == 0:
            body += svg.text(frame.x(i), svg.HEIGHT - 8, str(i), "middle")
    rows = [("softmax", i, value) for i, value in enumerate(shares)] + [("ridge", i, v) for i, v in enumerate(second)]
    return Chart(svg.document(body, label), _csv(("probe", "block", "accuracy"), rows))


def setting_chart(marks: Sequence[Mark], label: str, shape: int = 0, shares: bool = False) -> Chart:
    """A small chart of one quantity over one setting: dots with their intervals, the settings' labels below.

    Settings are placed at equal distances, because they are chosen, not measured.
    """
    finite = [mark for mark in marks if math.isfinite(mark.y)]
    if not finite:
        return NOTHING
    placed = tuple(replace(mark, x=float(i), x_range=None) for i, mark in enumerate(finite))
    low, high = svg.padded(svg.ends(placed), 0.08)
    frame = Frame((-0.5, low), (len(placed) - 0.5, high))
    body = svg.y_axis(frame, shares) + svg.draw_series(Series(placed, shape), frame, labels=False)
    for i, mark in enumerate(placed):
        if i % (len(placed) // 9 + 1) == 0:
            body += svg.text(frame.x(i), svg.HEIGHT - 8, mark.label, "middle")
    rows = [(mark.label, mark.y, *(mark.y_range or ("", ""))) for mark in placed]
    return Chart(svg.document(body, label), _csv(("setting", "value", "low", "high"), rows))


def scatter(series: Sequence[Series], x_name: str, y_name: str, label: str, shares: bool = False) -> Chart:
    """The large chart: two measured quantities against each other, series told apart by form and colour.

    With `shares` the horizontal axis is in percent. Points whose values are not finite are left out.
    """
    finite = [
        replace(line, marks=tuple(m for m in line.marks if math.isfinite(m.x) and math.isfinite(m.y)))
        for line in series
    ]
    marks = [mark for line in finite for mark in line.marks]
    if not marks:
        return NOTHING
    left, right = svg.padded((end for mark in marks for end in (mark.x, *(mark.x_range or ()))), 0.06)
    low, high = svg.padded(svg.ends(marks), 0.08)
    frame = Frame(
        (left, low), (right, high), LARGE_LEFT, LARGE_WIDTH - LARGE_RIGHT, LARGE_TOP, LARGE_HEIGHT - LARGE_BOTTOM
    )
    body = svg.y_axis(frame)
    for value, text in svg.tick_labels(left, right, shares):
        x = frame.x(value)
        body += svg.line("grid", x, frame.top, x, frame.bottom) + svg.text(x, frame.bottom + 14, text, "middle")
    body += svg.text(frame.right, LARGE_HEIGHT - 6, x_name, "end") + svg.text(frame.left, 11, y_name, "start")
    body += "".join(svg.draw_series(line, frame, labels=False) for line in finite)
    body += svg.labels_apart([mark for line in finite if line.shape != svg.FRONT for mark in line.marks], frame)
    rows = [
        (mark.note or mark.label, mark.x, *(mark.x_range or ("", "")), mark.y, *(mark.y_range or ("", "")))
        for line in finite if line.shape != svg.FRONT for mark in line.marks
    ]  # fmt: skip
    names = ("point", x_name.strip(" →"), "low", "high", y_name.strip("↑ "), "low", "high")
    return Chart(svg.document(body, label, LARGE_WIDTH, LARGE_HEIGHT), _csv(names, list(dict.fromkeys(rows))))


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


def _hover(frame: Frame, places: Sequence[Point], points: Sequence[Point]) -> str:
    """Invisible dots on a curve that show step and value under the pointer."""
    dots = ""
    for (x, y), (step, value) in zip(places, points, strict=True):
        dot = f'<circle class="hover" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="5"/>'
        dots += svg.noted(dot, f"step {round(step):,}: {_short(value)}")
    return dots


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(head)
    writer.writerows(rows)
    return stream.getvalue()
