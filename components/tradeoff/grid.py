"""Points of a grid over sampling settings, and the sets of candidates that they share."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TEMPERATURE, GUIDANCE, ACCEPTANCE = "temperature", "guidance", "acceptance"
Settings = Mapping[str, Any]


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
