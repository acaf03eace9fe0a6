"""The components of the flow by name, in the order in which they run, and what each one needs."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, cast

from components.contract.api import Component
from vim_core.errors import ConfigError
from vim_core.text import hint

if TYPE_CHECKING:
    from vim_core.config import PipelineConfig

NAMES: tuple[str, ...] = (
    "ingest",
    "classify",
    "selector",
    "statistics",
    "quantize",
    "tokenize",
    "reconstruct",
    "prior",
    "sample",
    "select",
    "score",
    "tradeoff",
    "probe",
    "report",
)
"""Every component, each after those it reads from."""


def component(name: str) -> Component:
    """The module of a component. Raises `ConfigError` naming the nearest for an unknown one."""
    if name not in NAMES:
        raise ConfigError(f"components: {name!r} is no component; {hint(name, NAMES)}")
    module = importlib.import_module(f"components.{name}")
    if hasattr(module, "__path__"):  # a package keeps its step in a module of one name
        module = importlib.import_module(f"components.{name}.component")
    return cast(Component, module)


def inputs_of(name: str, components: Sequence[str], config: PipelineConfig | None = None) -> dict[str, str]:
    """Input name to component name for `name` in a preset of these components.

    Optional inputs are left out where the preset does not run their component, and, given the settings, where these
    make no use of them. Raises `ConfigError` when a required one is missing.
    """
    module = component(name)
    unused = getattr(module, "unused", None) if config is not None else None
    dropped: Collection[str] = unused(getattr(config, name)) if unused is not None else ()
    inputs: dict[str, str] = {}
    for key, source in module.INPUTS.items():
        optional = source.endswith("?")
        source = source.removesuffix("?")
        if key in dropped:
            continue
        if source in components:
            inputs[key] = source
        elif not optional:
            raise ConfigError(f"components: {name} needs {source}; add {source} to the preset's components")
    return inputs


def nearest_inputs(name: str, components: Sequence[str], config: PipelineConfig | None = None) -> list[str]:
    """The components that `name` reads from, in flow order, without those from which another of them is made.

    A graph of these alone has the same order of components, and no edge beside a longer path.
    """
    sources = set(inputs_of(name, components, config).values())
    implied = {far for source in sources for far in upstream(source, components, config)}
    return sorted(sources - implied, key=NAMES.index)


def in_flow_order(components: Iterable[str]) -> list[str]:
    """The same components in the order in which they run. Raises `ConfigError` for an unknown or repeated one."""
    names = list(components)
    for name in names:
        component(name)
        if names.count(name) > 1:
            raise ConfigError(f"components: {name!r} is listed {names.count(name)} times; list it once")
    return sorted(names, key=NAMES.index)


def upstream(name: str, components: Sequence[str], config: PipelineConfig | None = None) -> list[str]:
    """The components whose artifacts must exist before `name` can run, in flow order, without `name` itself."""
    sources: set[str] = set()
    pending = [name]
    while pending:
        new = set(inputs_of(pending.pop(), components, config).values()) - sources
        sources |= new
        pending += new
    return sorted(sources, key=NAMES.index)


def downstream(name: str, components: Sequence[str], config: PipelineConfig | None = None) -> list[str]:
    """`name` and all of these components that are made from it, in flow order. Raises `ConfigError` for another one."""
    component(name)
    if name not in components:
        raise ConfigError(f"components: {name} is not among {', '.join(components)}")
    return [each for each in in_flow_order(components) if each == name or name in upstream(each, components, config)]
