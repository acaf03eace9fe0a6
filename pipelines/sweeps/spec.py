"""What a sweep is: a YAML file with a grid over sampling and scoring settings of one preset."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.contract import registry, settings
from vim_core.config.fields import require
from vim_core.errors import ConfigError

FOLDER = Path(__file__).resolve().parents[1] / "conf" / "sweeps"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""A sweep's name is a folder's name, too."""
TAKEN = ("schedules",)
"""What else lies among the results of sweeps."""
FREE = ("sample", "select", "score", "probe")
"""Components whose settings a point may choose: everything before them is shared by all points."""
ACCEPTANCE, CHECKPOINT, BLOCK = "acceptance", "checkpoint", "block"
SPECIAL = (ACCEPTANCE, CHECKPOINT, BLOCK)
LATEST, ALL = "latest", "all"
PROBED = "probe."
TRAINED = ("classify", "selector", "quantize", "prior")


@dataclass
class Sweep:
    """Points to evaluate on what a preset has trained.

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
        require(self.name not in TAKEN, "name", self.name, "is taken by the folder of schedules; choose another")
        require(self.parallel > 0, "parallel", self.parallel, "must be positive")
        require(bool(self.grid or self.points), "grid", self.grid, "name a setting and its values, or give points")
        for key, value in self.settings.items():
            _check(f"settings.{key}", key, value)
        self._check_grid()
        for number, point in enumerate(self.points, 1):
            require(bool(point), f"points[{number}]", point, "names no setting")
            for key, value in point.items():
                self._check_varying(f"points[{number}].{key}", key, value)
        require(len(self.axes) in (0, 2), "axes", self.axes, "name two, such as [max conditional_accuracy, min fid]")
        for text in (*self.axes, *([self.best] if self.best else [])):
            axis(text)

    def _check_grid(self) -> None:
        for key, values in self.grid.items():
            rule = "is a list of one value or more, such as [1.0, 2.0]"
            require(isinstance(values, list) and bool(values), f"grid.{key}", values, rule)
            require(all(values.count(each) == 1 for each in values), f"grid.{key}", values, "names a value twice")
            for value in values:
                if (key, value) != (CHECKPOINT, ALL):
                    self._check_varying(f"grid.{key}", key, value)
                require(ALL not in values or len(values) == 1, f"grid.{key}", values, "all has every other one in it")

    def _check_varying(self, where: str, key: str, value: Any) -> None:
        require(key not in self.settings, where, value, f"is {self.settings.get(key)!r} for all points, by settings")
        _check(where, key, value)

    @property
    def varying(self) -> list[str]:
        """The settings that tell points apart, in the order in which they are named."""
        return list(dict.fromkeys([*self.grid, *(key for point in self.points for key in point)]))

    def components(self, with_acceptance: bool) -> list[str]:
        """What runs for a point, in order: images are drawn and scored, and the probe is fitted, where asked for."""
        keys = {*self.settings, *self.varying}
        figures = [axis(text)[1] for text in (*self.axes, *([self.best] if self.best else []))]
        probing = BLOCK in keys or any(name.startswith(PROBED) for name in (*keys, *figures))
        others = [name for name in figures if not name.startswith(PROBED) and name not in keys]
        drawn = any(key == ACCEPTANCE or key.startswith(("sample.", "select.", "score.")) for key in keys)
        scoring = not self.axes or bool(others) or drawn
        images = ["sample", *(["select"] if with_acceptance else []), "score"]
        return [*(images if scoring else []), *(["probe"] if probing else [])]


def load(name: str) -> Sweep:
    """A sweep by name or file. Raises `ConfigError` for an unknown one, or for a wrong key or value in it."""
    path = _find(name)
    return _made(settings.read(path), str(path), path.stem)


def parse(text: str, name: str = "sweep") -> Sweep:
    """A sweep from YAML text, such as that of `to_yaml`. Raises `ConfigError`."""
    import yaml
    from omegaconf import OmegaConf

    try:
        tree: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{name}: expected settings as `key: value`, found {type(tree).__name__}")
    return _made(tree, name, name)


def to_yaml(sweep: Sweep) -> str:
    """The sweep as YAML; parsing it again gives an equal one."""
    import yaml

    return yaml.safe_dump(dataclasses.asdict(sweep), sort_keys=False)


def names() -> list[str]:
    """The sweeps that ship with the package, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def axis(text: str) -> tuple[str, str]:
    """Direction ('max' or 'min') and figure of an axis. Raises `ConfigError` for any other text."""
    words = text.split()
    if len(words) != 2 or words[0] not in ("max", "min"):
        raise ConfigError(f"axes={text!r}: must be '<max|min> <figure>', such as 'min fd_classifier'")
    return words[0], words[1]


def _made(tree: Mapping[str, Any], origin: str, stem: str) -> Sweep:
    known = {entry.name: entry for entry in dataclasses.fields(Sweep)}
    default = Sweep(name="default", points=[{"sample.seed": 0}])
    for key, value in tree.items():
        if key not in known:
            raise ConfigError(f"{origin}: {key}: unknown setting of a sweep{_nearest(str(key), known)}")
        kind = type(getattr(default, key))
        if type(value) is not kind:
            raise ConfigError(f"{origin}: {key}={value!r}: expected {kind.__name__}, found {type(value).__name__}")
    for number, point in enumerate(tree.get("points", []), 1):
        if not isinstance(point, dict):
            raise ConfigError(f"{origin}: points[{number}]={point!r}: expected settings as `key: value`")
    try:
        return Sweep(**{"name": stem, **tree})
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from error


def _find(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        if Path(name).is_file():
            return Path(name)
        raise ConfigError(f"sweep {name!r}: there is no such file")
    if name in names():
        return FOLDER / f"{name}.yaml"
    raise ConfigError(f"sweep {name!r} is unknown{_nearest(name, names()) or '; give a YAML file'}")


def _check(where: str, key: str, value: Any) -> None:
    if key in SPECIAL:
        return _check_special(where, key, value)
    known = settings.names()
    group = key.partition(".")[0]
    if key not in known or dataclasses.is_dataclass(known[key]):
        free = [*SPECIAL, *_free(known)]
        raise ConfigError(f"{where}: {key} is no setting that a sweep can choose{_nearest(key, free)}")
    if key == "select.rates":
        raise ConfigError(f"{where}={value!r}: write the rates as {ACCEPTANCE}, one value a point")
    if group in TRAINED:
        raise ConfigError(
            f"{where}={value!r}: {key} would train {group} again, and a sweep evaluates what is trained; "
            f"train it with `vimctl run {group} {key}={value}` and run the sweep with {key}={value}"
        )
    if group == "run":
        raise ConfigError(f"{where}={value!r}: {key} says where work runs; give it on the command line: {key}={value}")
    if group not in FREE:
        what = f"makes {group} anew" if group in registry.NAMES else "is of the preset"
        raise ConfigError(f"{where}={value!r}: {key} {what}, which all points share; give it on the command line")
    return None


def _check_special(where: str, key: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key == ACCEPTANCE:
        require(number and 0 < value <= 1, where, value, "is an acceptance rate, in (0, 1]")
    elif key == BLOCK:
        require(type(value) is int and value >= 0, where, value, "is the number of a block of the prior, from 0")
    else:
        rule = f"is a step of the prior's training, {LATEST}, or as a grid's only value {ALL}"
        require((type(value) is int and value > 0) or value == LATEST, where, value, rule)


def _free(known: Mapping[str, Any]) -> Iterator[str]:
    for key, kind in known.items():
        if key.partition(".")[0] in FREE and "." in key and not dataclasses.is_dataclass(kind):
            yield key


def _nearest(name: str, known: Any) -> str:
    found = difflib.get_close_matches(name, list(known), n=1)
    if not found:
        ends = {each.rsplit(".", 1)[-1]: each for each in known}
        found = [ends[end] for end in difflib.get_close_matches(name.rsplit(".", 1)[-1], list(ends), n=1)]
    return f"; did you mean {found[0]}?" if found else f"; known are {', '.join(list(known)[:12])}"
