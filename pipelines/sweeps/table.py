"""The table of a sweep: what varies, the figures that people compare, who is best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.report.results import SHARES, shown
from pipelines.sweeps.grid import short, told
from pipelines.sweeps.spec import axis

Record = Mapping[str, Any]
MOST = 4
"""Figures in the table beside those of the axes."""
USUAL = ("conditional_accuracy", "fid", "is", "fd_", "precision", "recall", "probe.")
"""Which of the figures come first."""


@dataclass(frozen=True)
class Row:
    """A point: its number, values of the settings, and figures with their intervals, '' for none."""

    number: int
    settings: tuple[str, ...]
    figures: tuple[tuple[str, str], ...]


def columns(results: Record) -> list[str]:
    """Figures of the table: those of the axes, then others of the points, the usual ones first."""
    named = [axis(text)[1] for text in results["axes"]]
    every = dict.fromkeys(name for point in results["points"] for name in point["figures"])
    own = [name for name in dict.fromkeys(named) if name in every]
    others = sorted((name for name in every if name not in own and _rank(name) < len(USUAL)), key=_rank)
    return [*own, *others[:MOST]]


def head(results: Record) -> tuple[str, ...]:
    """Titles of the columns."""
    figures = [name.replace("_", " ") for name in columns(results)]
    return ("point", *(short(name).replace("_", " ") for name in results["varying"]), *figures)


def row(results: Record, point: Record) -> Row:
    """A point as text."""
    settings = [point["settings"].get(name) for name in results["varying"]]
    figures = [_figure(point["figures"].get(name), name) for name in columns(results)]
    return Row(point["number"], tuple("–" if value is None else told(value) for value in settings), tuple(figures))


def measured(point: Record, name: str) -> tuple[float, tuple[float, float] | None]:
    """A figure with its interval, or a setting; not a number where the point has neither."""
    figure = point["figures"].get(name)
    if figure is None:
        value = point["settings"].get(name)
        return (float(value), None) if isinstance(value, int | float) else (math.nan, None)
    known = "low" in figure and "high" in figure
    return float(figure["value"]), (figure["low"], figure["high"]) if known else None


def _figure(figure: Record | None, name: str) -> tuple[str, str]:
    if figure is None:
        return "–", ""
    style = "share" if set(name.replace(".", "_").split("_")) & set(SHARES) else "number"
    known = "low" in figure and "high" in figure
    interval = f"{shown(figure['low'], style)} to {shown(figure['high'], style)}" if known else ""
    return shown(figure["value"], style), interval


def _rank(name: str) -> int:
    return next((i for i, start in enumerate(USUAL) if name == start or name.startswith(start)), len(USUAL))
