"""From a sweep to its points, and from points to cells: the points that share every image."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.contract import settings
from components.contract.api import Artifact
from pipelines.sweeps.spec import ACCEPTANCE, ALL, BLOCK, CHECKPOINT, LATEST, SPECIAL, Sweep
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError, DataError

Settings = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """One point: its number from 1, what tells it from the others, and all that the sweep says of it."""

    number: int
    varying: Settings
    settings: Settings

    @property
    def key(self) -> str:
        """12 hex digits over what the sweep says of it: the same point in every run of the sweep."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def label(self) -> str:
        """For people, such as 'guidance 1.5, acceptance 0.5'."""
        return ", ".join(f"{short(name)} {told(value)}" for name, value in self.varying.items())


@dataclass(frozen=True)
class Cell:
    """Points with one set of candidates: the settings to run `names` with, and what stands in the prior's place."""

    config: PipelineConfig
    names: tuple[str, ...]
    points: tuple[Point, ...]
    prior: Artifact | None = None


def short(key: str) -> str:
    """The end of a dotted key."""
    return key.rsplit(".", 1)[-1]


def told(value: Any) -> str:
    """A value for people."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def expand(sweep: Sweep, steps: Sequence[int] = ()) -> list[Point]:
    """Every combination of the grid in the order of its lists, then the further points; none twice.

    `steps` are the checkpoints there are, oldest first: what `latest` and `all` mean.

    Raises:
        DataError: a checkpoint is asked for by `latest` or `all`, and there is none.
    """
    grid = {key: _steps(values, steps) if key == CHECKPOINT else values for key, values in sweep.grid.items()}
    combined = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())] if grid else []
    found: list[Settings] = []
    for varying in [*combined, *(_resolved(point, steps) for point in sweep.points)]:
        if varying not in found:
            found.append(varying)
    fixed = _resolved(sweep.settings, steps)
    return [Point(number, varying, {**fixed, **varying}) for number, varying in enumerate(found, 1)]


def cells(
    sweep: Sweep, points: Sequence[Point], config: PipelineConfig, classes: int, priors: Mapping[int, Artifact]
) -> list[Cell]:
    """The points by what they share: those that differ in acceptance or block alone are one cell.

    Its candidates are as many as the strictest of its rates takes, and no fewer than `sample.count`.

    Args:
        sweep: what is asked.
        points: of `expand`.
        config: the preset's settings.
        classes: of the images; acceptance counts by class.
        priors: what stands in the place of the prior, by step of its training.

    Raises:
        ConfigError: a value does not suit its setting, or the preset has not the component it takes.
    """
    shared: dict[str, list[Point]] = {}
    for point in points:
        own = {key: value for key, value in point.settings.items() if key not in (ACCEPTANCE, BLOCK)}
        key = json.dumps([own, ACCEPTANCE in point.settings], sort_keys=True)
        shared.setdefault(key, []).append(point)
    return [_cell(sweep, group, config, classes, priors) for group in shared.values()]


def _cell(
    sweep: Sweep, points: list[Point], config: PipelineConfig, classes: int, priors: Mapping[int, Artifact]
) -> Cell:
    given = points[0].settings
    values = {key: value for key, value in given.items() if key not in SPECIAL}
    rates = sorted({float(p.settings[ACCEPTANCE]) for p in points if ACCEPTANCE in p.settings}, reverse=True)
    names = sweep.components(bool(rates))
    for name in names:
        if name not in config.components:
            raise ConfigError(f"{points[0].label}: needs {name}, which is not in the preset {config.preset}")
    made = settings.changed(config, values)
    if rates:
        made = _enough(made, rates, classes)
    kept = [name for name in made.components if name != "select" or rates]
    made = dataclasses.replace(made, components=kept)
    return Cell(made, tuple(names), tuple(points), priors.get(given.get(CHECKPOINT, -1)))


def _enough(config: PipelineConfig, rates: list[float], classes: int) -> PipelineConfig:
    from vim_core.sampling.rejection import pool

    if not classes:
        raise ConfigError(f"{ACCEPTANCE}={rates}: samples are accepted by class, and the images have none")
    needed = max(pool(config.select.count, rate) for rate in rates) * classes
    count = max(config.sample.count, needed)
    return settings.changed(config, {"select.rates": rates, "sample.count": count})


def _steps(values: list[Any], steps: Sequence[int]) -> list[int]:
    if ALL in values:
        return sorted({_latest(steps), *steps})
    return list(dict.fromkeys(_latest(steps) if value == LATEST else int(value) for value in values))


def _resolved(point: Settings, steps: Sequence[int]) -> Settings:
    return {**point, CHECKPOINT: _latest(steps)} if point.get(CHECKPOINT) == LATEST else dict(point)


def _latest(steps: Sequence[int]) -> int:
    if not steps:
        raise DataError(f"{CHECKPOINT}: the training of prior has no checkpoint yet and is not finished; wait for one")
    return max(steps)
