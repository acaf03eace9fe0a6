"""Settings explained: their texts, defaults, values in presets, and the code that reads them."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from components.contract import hardware, registry, settings
from vim_core.config import PipelineConfig
from vim_core.config.fields import ranges

WIDTH = 110
SHOWN_FILES = 8
PACKAGES = Path(__file__).parents[2]
CODE = ("vim_core", "components", "pipelines")


def explain(
    key: str, config: PipelineConfig, presets: Mapping[str, PipelineConfig], origins: Mapping[str, str] = {}
) -> Iterator[str]:
    """Lines about a setting, or about a group and each setting in it.

    Args:
        key: dotted name, such as `prior.dropout`.
        config: the settings whose value is shown.
        presets: every preset's settings by name.
        origins: where settings are from, see `settings.origins`.

    Raises:
        ConfigError: there is no such setting; the nearest is named.
    """
    kind = settings.kind_of(key)
    if dataclasses.is_dataclass(kind):
        yield key
        yield from _indented(_text(kind, ""))
        for name, value in _leaves(getattr_dotted(config, key), f"{key}."):
            default = getattr_dotted(PipelineConfig(), name)
            remarks = [f"default {_yaml(default)}"] if value != default else []
            remarks += [f"from {origins[name]}"] if name in origins else []
            yield f"  {name} = {_yaml(value)}" + (f"   ({', '.join(remarks)})" if remarks else "")
        return
    owner, name = _owner(key)
    value, default = getattr_dotted(config, key), getattr_dotted(PipelineConfig(), key)
    yield f"{key} = {_yaml(value)}   ({config.preset}; default {_yaml(default)})"
    yield from _indented(about(key))
    spelled = kind.__name__ if isinstance(kind, type) else str(kind)
    rule = f", {allowed}" if (allowed := ranges(owner).get(name)) else ""
    yield f"type        {spelled}{rule}"
    yield f"set in      {origins.get(key, 'no file: the default')}"
    yield f"changes     {effect(key, config)}"
    yield f"read in     {', '.join(readers(name)) or 'no module by this name'}"
    users: dict[str, list[str]] = {}
    for preset, other in presets.items():
        users.setdefault(_yaml(getattr_dotted(other, key)), []).append(preset)
    for text, names in users.items():
        yield f"{'presets' if text == next(iter(users)) else '':<11} {text}: {', '.join(names)}"


def about(key: str) -> list[str]:
    """The paragraphs that explain a setting, from the texts of its class."""
    return _text(*_owner(key))


def _owner(key: str) -> tuple[Any, str]:
    group, _, name = key.rpartition(".")
    return (settings.kind_of(group) if group else PipelineConfig), name


def commented(config: PipelineConfig, only_changed: bool = False, origins: Mapping[str, str] = {}) -> str:
    """The settings as YAML with the groups' texts and the defaults as comments; loading it gives an equal config.

    With `only_changed` those alone that differ from the defaults, without their preset's name. Comments name the
    hardware file among the `origins`.
    """
    return "".join(f"{line}\n" for line in _group(config, PipelineConfig(), "", only_changed, origins))


def getattr_dotted(config: Any, key: str) -> Any:
    """The value at a dotted name."""
    for name in key.split("."):
        config = getattr(config, name)
    return config


def _group(config: Any, defaults: Any, prefix: str, only_changed: bool, origins: Mapping[str, str]) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), getattr(defaults, field.name)
        value = value if field.compare else default  # `run.changed` is set by loading, not by people
        if only_changed and (value == default or field.name == "preset"):
            continue
        if dataclasses.is_dataclass(value):
            if not only_changed:
                yield from _indented(_text(type(value), ""), f"{indent}# ")
            yield f"{indent}{field.name}:"
            yield from _group(value, default, f"{prefix}{field.name}.", only_changed, origins)
        else:
            remark = "" if value == default else f"  # default {_yaml(default)}"
            origin = origins.get(prefix + field.name, "")
            remark += f", from {origin}" if remark and hardware.FOLDER in Path(origin).parts else ""
            yield f"{indent}{field.name}: {_yaml(value)}{remark}"


def _leaves(config: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def _yaml(value: Any) -> str:
    """A value on one line of YAML."""
    import yaml

    return yaml.safe_dump(value, default_flow_style=True, width=100_000).removesuffix("\n...\n").strip()


def _text(cls: Any, name: str) -> list[str]:
    """The sentences about a field in the texts of its class and the classes before it, else their first paragraphs."""
    texts = [
        inspect.cleandoc(each.__doc__ or "") for each in cls.__mro__ if "__dataclass_fields__" in vars(each)
    ]  # fmt: skip
    sentences = [each for text in texts for each in re.split(r"(?<=[.:;])\s+(?=[A-Z`])", " ".join(text.split()))]
    about = [each for each in sentences if re.search(rf"`{re.escape(name)}[`:]", each)] if name else []
    return [" ".join(about)] if about else [" ".join(text.split("\n\n")[0].split()) for text in texts]


def _indented(texts: Iterable[str], indent: str = "  ") -> Iterator[str]:
    for text in filter(None, texts):
        yield from textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)


def effect(key: str, config: PipelineConfig) -> str:
    """The part of the pipeline that is made again where the setting changes."""
    group, owner = key.partition(".")[0], PipelineConfig()
    fields: dict[str, dataclasses.Field[Any]] = {}
    for name in key.split("."):
        fields = {field.name: field for field in dataclasses.fields(owner)}
        owner = getattr(owner, name)
    if fields[key.rpartition(".")[2]].metadata.get("execution"):
        return "where or how work runs, no result: nothing is made again"
    if group not in registry.NAMES:
        return "which components run" if key == "components" else "names only: nothing is made again"
    made = registry.downstream(group, config.components, config) if group in config.components else [group]
    return f"the result: made again are {', '.join(made)}"


def readers(name: str) -> list[str]:
    """The modules that read an attribute of this name, below the packages' folder."""
    pattern = re.compile(rf"\.{re.escape(name)}\b(?!\s*=[^=])")
    paths = sorted(path for package in CODE for path in (PACKAGES / package).rglob("*.py"))
    names = [
        str(path.relative_to(PACKAGES))
        for path in paths
        if "config" not in path.relative_to(PACKAGES).parts and pattern.search(path.read_text(encoding="utf-8"))
    ]
    return names if len(names) <= SHOWN_FILES else [*names[:SHOWN_FILES], f"and {len(names) - SHOWN_FILES} more"]
