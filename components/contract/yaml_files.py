"""YAML files and command-line values as plain trees; where a setting is text, a value counts as it is written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, get_args, get_origin

from vim_core.config.decode import field_types
from vim_core.errors import ConfigError


def read(path: Path, cls: Any) -> dict[str, Any]:
    """Return a YAML file's own settings; see `parse`. Raises `ConfigError` also for a file that cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    return parse(text, str(path), cls)


def parse(text: str, origin: str, cls: Any) -> dict[str, Any]:
    """Return the settings of YAML text, interpolations unresolved.

    Args:
        text: a mapping.
        origin: named in errors.
        cls: the dataclass that they are for: says which settings are text.

    Raises:
        ConfigError: it is no mapping, not valid YAML, or an interpolation is malformed.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        loaded: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
        written = yaml.load(text, _text_loader())
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not valid YAML: {' '.join(str(error).split())}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(
            f"{origin}: {error.full_key}: not a valid interpolation: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{origin}: expected settings as `key: value`, found {type(loaded).__name__}")
    return dict(as_text(cls, loaded, written))


def value(text: str, key: str, kind: Any) -> Any:
    """Return the value of a setting from the command line. Raises `ConfigError` where it is no YAML."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if kind is str:
        return text
    try:
        typed: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}={text}: the value is not valid YAML; quote it for the shell") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}={text}: not a valid interpolation: {str(error).splitlines()[0]}") from error
    return as_text(kind, typed["value"], yaml.load(text, _text_loader()))


def as_text(kind: Any, tree: Any, written: Any = None) -> Any:
    """The tree with text for every scalar where `kind` has text.

    Args:
        kind: a dataclass, or the type of a setting.
        tree: plain values.
        written: the same tree with every scalar as it is written; without it only whole numbers become text, because
            others have several spellings.
    """
    origin, inside = get_origin(kind), get_args(kind)
    if kind is str and type(tree) in (bool, int, float):
        return written if isinstance(written, str) else str(tree) if type(tree) is int else tree
    if origin is list and isinstance(tree, list):
        items = written if isinstance(written, list) else [None] * len(tree)
        return [as_text(inside[0], each, text) for each, text in zip(tree, items, strict=True)]
    if isinstance(tree, dict):
        texts = written if isinstance(written, dict) else {}
        kinds = field_types(kind) if isinstance(kind, type) and dataclasses.is_dataclass(kind) else {}
        other = inside[1] if origin is dict else None
        return {name: as_text(kinds.get(name, other), each, texts.get(str(name))) for name, each in tree.items()}
    return tree


def _text_loader() -> Any:
    """A safe YAML loader that leaves every scalar as its text, and so `on`, 007 and 1e3 as they are."""
    import yaml

    merge = "tag:yaml.org,2002:merge"

    class TextLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        yaml_implicit_resolvers: ClassVar = {
            first: [each for each in each_of if each[0] == merge]
            for first, each_of in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    return TextLoader
