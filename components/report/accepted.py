"""What rejection sampling kept: a row of strips per class, a column per acceptance rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.contract.api import Artifact
from components.report import grids
from components.report import results as figures
from components.report.grids import Picture

PER_RATE = 4
"""Samples shown of each class at each rate: a few, since every rate has its own column."""


@dataclass(frozen=True)
class Accepted:
    """Rates as written in the settings, loosest first, and for each class its name and a strip per rate (or none)."""

    rates: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Picture | None, ...]], ...]


@dataclass(frozen=True)
class Scored:
    """Figures by acceptance rate: rates, and by figure its label and a (value, interval) per rate."""

    rates: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


def scored(record: Mapping[str, Any]) -> Scored | None:
    """What `score` found at each rate, all on equally many images; None without selection."""
    known, values = figures.known(record), figures.flat(record)
    found: dict[str, dict[str, figures.Figure]] = {}
    for figure in known:
        name, mark, rate = figure.name.partition(figures.ACCEPTED)
        if mark:
            found.setdefault(name, {})[rate] = figure
    rates = sorted({rate for one in found.values() for rate in one}, key=float, reverse=True)
    if not rates:
        return None
    rows = tuple(
        (
            next(iter(one.values())).label.partition(", acceptance ")[0],
            tuple(_cell(values, one.get(rate)) for rate in rates),
        )
        for one in found.values()
    )
    return Scored(tuple(rates), rows)


def _cell(values: Mapping[str, Any], figure: figures.Figure | None) -> tuple[str, str]:
    if figure is None:
        return "–", ""
    return figures.shown(values[figure.key], figure.style), figures.interval(values, figure)


def accepted(selected: Artifact, most: int, per_rate: int = PER_RATE) -> Accepted | None:
    """The section for the artifact of `select`, at most `most` classes; None where it kept no pictures."""
    rates = rates_of(selected)
    classes: Sequence[str] = selected.properties.get("classes", [])
    strips = [grids.accepted_by_class(selected, rate, classes, per_rate, most) for rate in rates]
    labels = sorted({label for strip in strips for label in strip})[:most]
    if not labels:
        return None
    rows = tuple((_name(classes, label), tuple(strip.get(label) for strip in strips)) for label in labels)
    return Accepted(tuple(rates), rows)


def rates_of(selected: Artifact) -> list[str]:
    """Acceptance rates that the artifact has images of, as its files write them, loosest first."""
    prefix = "images/accepted-"
    names = [entry.name.removeprefix(prefix) for entry in selected.manifest.files if entry.name.startswith(prefix)]
    return sorted({name.split("-")[0] for name in names}, key=float, reverse=True)


def _name(classes: Sequence[str], label: int) -> str:
    return "–" if label < 0 else classes[label] if label < len(classes) else str(label)
