"""Sweeps as YAML files: a grid over the sampling and scoring settings of one preset."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.contract import registry, settings, yaml_files
from components.contract.commands import command
from components.tradeoff import grid
from components.tradeoff.grid import ACCEPTANCE, Point, parse_axis
from vim_core.config.decode import decode
from vim_core.config.fields import require
from vim_core.errors import ConfigError, DataError
from vim_core.text import hint

FOLDER = Path(__file__).resolve().parents[1] / "conf" / "sweeps"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""A sweep's name is a folder's name, too."""
SWEEPS, SCHEDULES = "sweeps", "schedules"
"""Folder below the root with the results of sweeps, and the folder among them in which schedules lie."""
FREE = ("sample", "select", "score", "probe")
"""Components whose settings a point may choose: everything before them is shared by all points."""
TRAINED = ("classify", "selector", "quantize", "prior")
CHECKPOINT, BLOCK = "checkpoint", "block"
SPECIAL = (ACCEPTANCE, CHECKPOINT, BLOCK)
LATEST, ALL = "latest", "all"
PROBED = "probe."


@dataclass
class Sweep:
    """Points to evaluate on a preset's trained models.

    `settings` hold for every point, `grid` names the values of each setting that varies, `points` are further ones
    beside the grid. Settings are dotted keys of sample, select, score and probe, or one of three of a sweep's own:
    `acceptance` (a rate of rejection sampling, which keeps `select.count` images a class), `checkpoint` (a step of the
    prior's training, `latest`, or in the grid `all`) and `block` (of the probe). Points that differ in acceptance or
    block alone share one set of candidates and one probe.

    `axes` are two figures or settings with what is better, such as 'max conditional_accuracy' (empty: the distance and
    what it is plotted against, by the preset's statistics); `best` marks the point by one of them, or where it is empty
    the point of the front that is nearest to the best of both. `parallel` points are evaluated at once.
    """

    name: str = ""
    about: str = ""
    preset: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    points: list[dict[str, Any]] = field(default_factory=list)
    axes: list[str] = field(default_factory=list)
    best: str = ""
    parallel: int = 1

    def __post_init__(self) -> None:
        rule = "must be letters, digits, '.', '_' or '-', 64 at most: it names a folder"
        require(bool(NAME.fullmatch(self.name)), "name", self.name, rule)
        require(self.name != SCHEDULES, "name", self.name, "is taken by the folder of schedules; choose another")
        require(self.parallel > 0, "parallel", self.parallel, "must be positive")
        require(bool(self.grid or self.points), "grid", self.grid, "name a setting and its values, or give points")
        for key, value in self.settings.items():
            _check(f"settings.{key}", key, value)
        for key, values in self.grid.items():
            require(bool(values), f"grid.{key}", values, "is a list of one value or more, such as [1.0, 2.0]")
            require(all(values.count(value) == 1 for value in values), f"grid.{key}", values, "names a value twice")
            if key == CHECKPOINT and ALL in values:
                require(len(values) == 1, f"grid.{key}", values, f"{ALL} has every other one in it")
            else:
                for value in values:
                    self._check_varying(f"grid.{key}", key, value)
        for number, point in enumerate(self.points, 1):
            require(bool(point), f"points[{number}]", point, "names no setting")
            for key, value in point.items():
                self._check_varying(f"points[{number}].{key}", key, value)
        require(len(self.axes) in (0, 2), "axes", self.axes, "name two, such as [max conditional_accuracy, min fid]")
        for text in self._ranked_by:
            parse_axis(text)

    def _check_varying(self, origin: str, key: str, value: Any) -> None:
        require(key not in self.settings, origin, value, f"is {self.settings.get(key)!r} for all points, by settings")
        _check(origin, key, value)

    @property
    def varying(self) -> list[str]:
        """The settings that tell points apart, in the order in which they are named."""
        return list(dict.fromkeys([*self.grid, *(key for point in self.points for key in point)]))

    @property
    def _ranked_by(self) -> list[str]:
        return [*self.axes, *([self.best] if self.best else [])]

    def components(self, with_acceptance: bool) -> list[str]:
        """Components that run for a point, in order: sample and score, and the probe, as settings and figures need."""
        keys = {*self.settings, *self.varying}
        figures = [parse_axis(text).name for text in self._ranked_by]
        probing = BLOCK in keys or any(name.startswith(PROBED) for name in (*keys, *figures))
        others = [name for name in figures if not name.startswith(PROBED) and name not in keys]
        drawn = any(key == ACCEPTANCE or key.startswith(("sample.", "select.", "score.")) for key in keys)
        scoring = not self.axes or bool(others) or drawn
        images = ["sample", *(["select"] if with_acceptance else []), "score"]
        return [*(images if scoring else []), *(["probe"] if probing else [])]


def expand(sweep: Sweep, steps: Sequence[int] = ()) -> list[Point]:
    """The points of a sweep; `steps` are the checkpoints there are, oldest first, for `latest` and `all`.

    Raises:
        DataError: a point names its checkpoint by `latest` or `all`, and there is none.
    """

    def latest() -> int:
        if not steps:
            raise DataError(
                f"{CHECKPOINT}: the training of prior has no checkpoint yet and is not finished; wait for one"
            )
        return max(steps)

    def resolved(given: Mapping[str, Any]) -> dict[str, Any]:
        return {**given, CHECKPOINT: latest()} if given.get(CHECKPOINT) == LATEST else dict(given)

    values = dict(sweep.grid)
    if CHECKPOINT in values:
        named = values[CHECKPOINT]
        values[CHECKPOINT] = (
            sorted({latest(), *steps})
            if ALL in named
            else list(dict.fromkeys(latest() if step == LATEST else int(step) for step in named))
        )
    return grid.expand(values, [resolved(point) for point in sweep.points], resolved(sweep.settings))


def load(name: str) -> Sweep:
    """A sweep by name or file. Raises `ConfigError` for an unknown one, or for a wrong key or value in it."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"sweep {name!r}: there is no such file")
    elif name in names():
        path = FOLDER / f"{name}.yaml"
    else:
        raise ConfigError(f"sweep {name!r} is unknown; {hint(name, names())}; or give a YAML file")
    return decode(Sweep, {"name": path.stem, **yaml_files.read(path, Sweep)}, str(path), defaults=True)


def parse(text: str, name: str = "sweep") -> Sweep:
    """A sweep from YAML text, such as that of `to_yaml`. Raises `ConfigError`."""
    return decode(Sweep, {"name": name, **yaml_files.parse(text, name, Sweep)}, name, defaults=True)


def to_yaml(sweep: Sweep) -> str:
    """The sweep as YAML; parsing it again gives an equal one."""
    import yaml

    return yaml.safe_dump(dataclasses.asdict(sweep), sort_keys=False)


def names() -> list[str]:
    """The sweeps that ship with the package, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def _check(origin: str, key: str, value: Any) -> None:
    """Raise `ConfigError` unless a point may have this value of this setting; `origin` is its location for messages."""
    if key in SPECIAL:
        return _check_special(origin, key, value)
    known = settings.names()
    group = key.partition(".")[0]
    if key not in known or dataclasses.is_dataclass(known[key]):
        leaves = (name for name, kind in known.items() if "." in name and not dataclasses.is_dataclass(kind))
        free = [*SPECIAL, *(name for name in leaves if name.partition(".")[0] in FREE)]
        raise ConfigError(f"{origin}: {key} is no setting that a sweep can choose; {hint(key, free)}")
    if key == "select.rates":
        raise ConfigError(f"{origin}={value!r}: write the rates as {ACCEPTANCE}, one value a point")
    if group in TRAINED:
        line = f"{key}={value}"
        raise ConfigError(
            f"{origin}={value!r}: {key} would train {group} again, and a sweep evaluates what is trained; "
            f"train it with `{command('run', group, line)}` and run the sweep with {line}"
        )
    if group == "run":
        raise ConfigError(f"{origin}={value!r}: {key} says where work runs; give it on the command line: {key}={value}")
    if group not in FREE:
        what = f"makes {group} anew" if group in registry.NAMES else "is of the preset"
        raise ConfigError(f"{origin}={value!r}: {key} {what}, which all points share; give it on the command line")
    return None


def _check_special(origin: str, key: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key == ACCEPTANCE:
        require(number and 0 < value <= 1, origin, value, "is an acceptance rate, in (0, 1]")
    elif key == BLOCK:
        require(type(value) is int and value >= 0, origin, value, "is the number of a block of the prior, from 0")
    else:
        rule = f"is a step of the prior's training, {LATEST}, or as a grid's only value {ALL}"
        require((type(value) is int and value > 0) or value == LATEST, origin, value, rule)
