"""Presets and command-line overrides merged into typed settings; a mistake names its key and the nearest right one."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from components.contract import registry
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError

COMMAND_LINE = "command line"


def load(preset: str, overrides: Sequence[str] = (), folder: str | Path | None = None) -> PipelineConfig:
    """The settings of a preset, or of a YAML file, with `key.sub=value` overrides on top.

    `folder` is where presets lie as `<name>.yaml`; a `preset` that ends in .yaml or .yml is taken as a path.
    Raises `ConfigError` for an unknown or mistyped key, a broken file or a component whose inputs are not there.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    path = _find(preset, [Path(folder)] if folder is not None else [])
    trees = [*_chain(path, Path(folder) if folder is not None else path.parent), _override_tree(overrides)]
    defaults = dataclasses.asdict(PipelineConfig(preset=path.stem))
    defaults["run"]["root"] = os.environ.get("VIM_ROOT") or defaults["run"]["root"]
    try:
        merged = OmegaConf.merge(OmegaConf.create(defaults), *trees)
        resolved = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from error
    config: PipelineConfig = _build(PipelineConfig, resolved, "")
    config.components = _checked(config.components)
    return config


def presets(folder: str | Path) -> list[str]:
    """The names of the presets in a folder, sorted."""
    return sorted(path.stem for path in Path(folder).glob("*.yaml"))


def to_yaml(config: PipelineConfig) -> str:
    """The resolved settings as YAML; loading it again gives an equal config."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))


def changed(config: PipelineConfig, values: Mapping[str, Any]) -> PipelineConfig:
    """The settings with other values at these dotted keys. Raises `ConfigError` for an unknown key or a wrong value."""
    tree = dataclasses.asdict(config)
    known = names()
    for key, value in values.items():
        if key not in known or dataclasses.is_dataclass(known[key]):
            raise _unknown(key, known, "changed")
        *groups, leaf = key.split(".")
        branch = tree
        for group in groups:
            branch = branch[group]
        branch[leaf] = value
    made: PipelineConfig = _build(PipelineConfig, tree, "")
    return made


def from_yaml(text: str, origin: str) -> PipelineConfig:
    """The settings that `to_yaml` wrote; `origin` is named in errors. Raises `ConfigError` for any other text."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        tree: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=True)
        _check_keys(tree, names(), "", origin)
        config: PipelineConfig = _build(PipelineConfig, tree, "")
    except (yaml.YAMLError, OmegaConfBaseException, KeyError, AttributeError, TypeError) as error:
        # Whole settings have every key, so one that is missing is a mistake as well.
        raise ConfigError(
            f"{origin}: not the whole settings of this version: {' '.join(str(error).split())}"
        ) from error
    config.components = _checked(config.components)
    return config


def names() -> dict[str, Any]:
    """Every setting's dotted name and type; groups are there with their dataclass."""
    return dict(_all_names())


@functools.cache
def _all_names() -> dict[str, Any]:
    return _names(PipelineConfig, "")


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def _names(cls: Any, prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, kind in _hints(cls).items():
        found[prefix + key] = kind
        if dataclasses.is_dataclass(kind):
            found.update(_names(kind, f"{prefix}{key}."))
    return found


def _checked(components: list[str]) -> list[str]:
    ordered = registry.in_flow_order(components)
    for name in ordered:
        registry.inputs_of(name, ordered)
    return ordered


def _find(preset: str, folders: Sequence[Path]) -> Path:
    if preset.endswith((".yaml", ".yml")):
        if Path(preset).is_file():
            return Path(preset)
        raise ConfigError(f"preset {preset!r}: there is no such file")
    for folder in folders:
        if (folder / f"{preset}.yaml").is_file():
            return folder / f"{preset}.yaml"
    known = sorted({name for folder in folders for name in presets(folder)})
    nearest = difflib.get_close_matches(preset, known, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known) or 'none'}"
    raise ConfigError(f"preset {preset!r} is unknown; {hint}")


def _chain(path: Path, folder: Path) -> list[dict[str, Any]]:
    """The file's own settings after those of the presets it extends, furthest first."""
    trees: list[dict[str, Any]] = []
    seen: list[Path] = []
    while True:
        if path.resolve() in seen:
            raise ConfigError(f"{path}: extends itself through {' → '.join(item.stem for item in seen)}")
        seen.append(path.resolve())
        tree = read(path)
        parent = tree.pop("extends", None)
        _check_keys(tree, names(), "", str(path))
        trees.insert(0, tree)
        if parent is None:
            return trees
        if not isinstance(parent, str):
            raise ConfigError(f"{path}: extends={parent!r}: expected the name of one preset")
        path = _find(parent, [path.parent, folder])


def read(path: Path) -> dict[str, Any]:
    """A YAML file's settings as they stand. Raises `ConfigError` for one that cannot be read or is no mapping."""
    import yaml
    from omegaconf import OmegaConf

    try:
        loaded: Any = OmegaConf.to_container(OmegaConf.create(path.read_text(encoding="utf-8")), resolve=False)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected settings as `key: value`, found {type(loaded).__name__}")
    return loaded


def _override_tree(overrides: Sequence[str]) -> dict[str, Any]:
    known = names()
    tree: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"{override!r}: write an override as key=value, such as prior.steps=1200")
        if key not in known:
            raise _unknown(key, known, COMMAND_LINE)
        if dataclasses.is_dataclass(known[key]):
            raise _is_group(key, text, COMMAND_LINE)
        *groups, leaf = key.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[leaf] = text if known[key] is str else _parsed(key, text)
    _check_keys(tree, known, "", COMMAND_LINE)
    return tree


def _parsed(key: str, text: str) -> Any:
    import yaml
    from omegaconf import OmegaConf

    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)["value"]  # type: ignore[index,call-overload]
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}={text}: the value is not valid YAML; quote it for the shell") from error


def _check_keys(tree: Mapping[str, Any], known: Mapping[str, Any], prefix: str, origin: str) -> None:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if "." in str(key) or name not in known:
            raise _unknown(name, known, origin)
        if not dataclasses.is_dataclass(known[name]):
            if value == "???":  # OmegaConf would keep the value from below and say nothing
                raise ConfigError(f"{name}=??? ({origin}): give a value")
            continue
        if not isinstance(value, dict):
            raise _is_group(name, value, origin)
        _check_keys(value, known, f"{name}.", origin)


def _is_group(name: str, value: object, origin: str) -> ConfigError:
    inside = next(each for each in names() if each.startswith(f"{name}."))
    return ConfigError(f"{name}={value!r}: is a group of settings ({origin}); set one in it, such as {inside}")


def _unknown(name: str, known: Mapping[str, Any], origin: str) -> ConfigError:
    if name in known:
        return ConfigError(f"{name} ({origin}): write it on its own line, indented below its group")
    ends = {known_name.rsplit(".", 1)[-1]: known_name for known_name in known}
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    nearest = nearest or [ends[end] for end in difflib.get_close_matches(name.rsplit(".", 1)[-1], list(ends), n=1)]
    hint = f"did you mean {nearest[0]}?" if nearest else "`vimctl config` prints all there are"
    return ConfigError(f"{name}: unknown setting ({origin}); {hint}")


def _build(cls: Any, tree: Any, prefix: str) -> Any:
    values: dict[str, Any] = {}
    for key, kind in _hints(cls).items():
        name = f"{prefix}{key}"
        grouped = dataclasses.is_dataclass(kind)
        values[key] = _build(kind, tree[key], f"{name}.") if grouped else _leaf(name, tree[key], kind)
    try:
        return cls(**values)
    except ConfigError as error:
        # The dataclass knows its field but not where it hangs in the preset.
        key, equals, rest = str(error).partition("=")
        key = f"{prefix}{key.rsplit('.', 1)[-1]}" if prefix else key
        raise ConfigError(f"{key}{equals}{rest}") from error


def _leaf(name: str, value: Any, kind: Any) -> Any:
    if get_origin(kind) is list:
        (item,) = get_args(kind)
        if isinstance(value, list):
            return [_leaf(f"{name}[{index}]", each, item) for index, each in enumerate(value)]
    elif kind is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            if not math.isfinite(value):
                raise ConfigError(f"{name}={value!r}: expected a finite number")
            return float(value)
    elif type(value) is kind:
        return value
    raise ConfigError(f"{name}={value!r}: expected {_spelled(kind)}, found {type(value).__name__}")


def _spelled(kind: Any) -> str:
    if get_origin(kind) is list:
        return f"a list of {get_args(kind)[0].__name__}, such as [a, b]"
    return str(kind.__name__)
