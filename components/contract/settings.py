"""Presets and command-line overrides merged into typed settings; a mistake names its key and the nearest right one."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.contract import hardware, registry, yaml_files
from components.contract.commands import command
from components.contract.fingerprint import result_settings
from vim_core.config import PipelineConfig
from vim_core.config.decode import decode, field_types
from vim_core.errors import ConfigError
from vim_core.text import flatten, hint, nearest

COMMAND_LINE = "command line"
REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def load(preset: str, overrides: Sequence[str] = (), folder: str | Path | None = None) -> PipelineConfig:
    """The settings of a preset, or of a YAML file, with `key.sub=value` overrides on top.

    `folder` is where presets lie as `<name>.yaml`; a `preset` that ends in .yaml or .yml is taken as a path. The file
    that `run.hardware` names comes between preset and overrides.
    Raises `ConfigError` for an unknown or mistyped key, a broken file or a component whose inputs are not there.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    path, sources = _sources(preset, overrides, folder)
    defaults = dataclasses.asdict(PipelineConfig(preset=path.stem))
    defaults["run"]["root"] = os.environ.get("VIM_ROOT") or defaults["run"]["root"]
    try:
        merged = OmegaConf.merge(OmegaConf.create(defaults), *(tree for _, tree in sources))
        resolved = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise _unresolved(str(error).splitlines()[0], str(error.full_key), sources) from error
    config = _checked(decode(PipelineConfig, yaml_files.as_text(PipelineConfig, resolved)))
    if overrides and not config.run.changed:
        config.run.changed = _changed(preset, overrides, folder, config)
    return config


def origins(preset: str, overrides: Sequence[str] = (), folder: str | Path | None = None) -> dict[str, str]:
    """The file, or the command line, that each setting is from by its dotted name; defaults are not among them.

    Raises `ConfigError` as `load` does.
    """
    _, sources = _sources(preset, overrides, folder)
    return {key: origin for origin, tree in sources for key in flatten(tree)}


def _changed(preset: str, overrides: Sequence[str], folder: str | Path | None, config: PipelineConfig) -> list[str]:
    """The overrides that change a result, as key=value; the hardware where one of its settings does."""
    try:
        before = flatten(result_settings(load(preset, (), folder)))
    except ConfigError:  # the preset is not whole without them
        before = {}
    after = flatten(result_settings(config))
    keys = dict.fromkeys(each.partition("=")[0] for each in overrides)
    changed = [f"{key}={_text(after[key])}" for key in keys if key in after and after[key] != before.get(key)]
    brought = [key for key in hardware.ALLOWED & after.keys() - keys.keys() if after[key] != before.get(key)]
    if hardware.SETTING in keys and brought:
        changed.insert(0, f"{hardware.SETTING}={config.run.hardware}")
    return changed


def presets(folder: str | Path) -> list[str]:
    """The names of the presets in a folder, sorted."""
    return sorted(path.stem for path in Path(folder).glob("*.yaml"))


def _text(value: Any) -> str:
    """A value as it is written on the command line."""
    return json.dumps(value, separators=(",", ":")) if isinstance(value, list | bool) or value is None else str(value)


def to_yaml(config: PipelineConfig) -> str:
    """The resolved settings as YAML; loading it again gives an equal config."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))


def with_values(config: PipelineConfig, values: Mapping[str, Any]) -> PipelineConfig:
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
    return decode(PipelineConfig, yaml_files.as_text(PipelineConfig, tree))


def from_yaml(text: str, origin: str) -> PipelineConfig:
    """The settings that `to_yaml` wrote; `origin` is named in errors. Raises `ConfigError` for any other text."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    problem = f"{origin}: not the whole settings of this version"
    try:
        tree: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException, AttributeError) as error:
        raise ConfigError(f"{problem}: {' '.join(str(error).split())}") from error
    return _checked(decode(PipelineConfig, tree, problem))


def names(cls: Any = PipelineConfig, prefix: str = "") -> dict[str, Any]:
    """Every setting's dotted name and type; groups are there with their dataclass."""
    types: dict[str, Any] = {}
    for name, kind in field_types(cls).items():
        types[prefix + name] = kind
        if dataclasses.is_dataclass(kind):
            types.update(names(kind, f"{prefix}{name}."))
    return types


def kind_of(key: str) -> Any:
    """The type of a setting, or the dataclass of a group. Raises `ConfigError`, naming the nearest, for no such."""
    known = names()
    if key not in known:
        raise _unknown(key, known, COMMAND_LINE)
    return known[key]


def _checked(config: PipelineConfig) -> PipelineConfig:
    """The settings with their components in flow order.

    Raises `ConfigError` where one lacks an input, and for a name that no database takes.
    """
    for key, value in (("preset", config.preset), ("run.root", config.run.root)):
        try:
            value.encode()
        except UnicodeEncodeError:
            rule = "is no text in UTF-8, as databases want it: rename the file or folder, or set LANG=C.UTF-8"
            raise ConfigError(f"{key}={value!r}: {rule}") from None
    config.components = registry.in_flow_order(config.components)
    for name in config.components:
        registry.inputs_of(name, config.components)
    return config


def _sources(
    preset: str, overrides: Sequence[str], folder: str | Path | None
) -> tuple[Path, list[tuple[str, dict[str, Any]]]]:
    """The preset's path, and origin and settings of what is merged, the strongest last."""
    path = _find(preset, [Path(folder)] if folder is not None else [])
    home = Path(folder) if folder is not None else path.parent
    sources = [*_chain(path, home), (COMMAND_LINE, _override_tree(overrides))]
    name = hardware.chosen([tree for _, tree in sources])
    if name:
        origin, tree = hardware.read(name, home)
        _check_keys(tree, names(), "", origin)
        sources.insert(-1, (origin, tree))
    return path, sources


def _find(preset: str, folders: Sequence[Path]) -> Path:
    if preset.endswith((".yaml", ".yml")):
        if Path(preset).is_file():
            return Path(preset)
        raise ConfigError(f"preset {preset!r}: there is no such file")
    for folder in folders:
        if (folder / f"{preset}.yaml").is_file():
            return folder / f"{preset}.yaml"
    known = sorted({name for folder in folders for name in presets(folder)})
    raise ConfigError(f"preset {preset!r} is unknown; {hint(preset, known)}")


def _chain(path: Path, folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """The path and settings of a file after those of the presets it extends, furthest first."""
    trees: list[tuple[str, dict[str, Any]]] = []
    seen: list[Path] = []
    while True:
        if path.resolve() in seen:
            raise ConfigError(f"{path}: extends itself through {' → '.join(item.stem for item in seen)}")
        seen.append(path.resolve())
        tree = yaml_files.read(path, PipelineConfig)
        parent = tree.pop("extends", None)
        _check_keys(tree, names(), "", str(path))
        trees.insert(0, (str(path), tree))
        if parent is None:
            return trees
        if not isinstance(parent, str):
            raise ConfigError(f"{path}: extends={parent!r}: expected the name of one preset")
        path = _find(parent, [path.parent, folder])


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
        branch[leaf] = yaml_files.value(text, key, known[key])
    _check_keys(tree, known, "", COMMAND_LINE)
    return tree


def _unresolved(reason: str, key: str, sources: Sequence[tuple[str, Mapping[str, Any]]]) -> ConfigError:
    """The error for a setting that cannot be resolved; it names the file that the setting is from.

    Of a chain of interpolations, the last setting that exists is meant.
    """

    def last(name: str) -> tuple[str, Any]:
        """Where the value of a setting is from, and that value; a default is from nowhere."""
        for origin, tree in reversed(sources):
            branch: Any = tree
            for part in name.split("."):
                branch = branch.get(part) if isinstance(branch, Mapping) else None
            if branch is not None:
                return origin, branch
        return "", None

    key, seen = key.partition("[")[0], set[str]()
    while key not in seen:
        seen.add(key)
        origin, value = last(key)
        inner = REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if inner is not None and last(inner[1])[0]:
            key = inner[1]
    return ConfigError(f"{key}={value} ({origin}): {reason}")


def _check_keys(tree: Mapping[str, Any], known: Mapping[str, Any], prefix: str, origin: str) -> None:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if "." in str(key) or name not in known:
            raise _unknown(name, known, origin)
        if not dataclasses.is_dataclass(known[name]):
            if value == "???":  # OmegaConf would silently keep the value of the extended preset
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
    near = nearest(name, known, cutoff=0.7)
    advice = f"did you mean {near}?" if near else f"`{command('config')}` prints all there are"
    return ConfigError(f"{name}: unknown setting ({origin}); {advice}")
