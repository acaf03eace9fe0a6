"""Field kinds and checks that the settings classes are built with."""

from __future__ import annotations

from dataclasses import MISSING, field, fields, is_dataclass, replace
from typing import Any, TypeVar

from vim_core.errors import ConfigError

C = TypeVar("C")


def execution(default: Any) -> Any:
    """A field that says where or how the work runs and never changes its result: left out of fingerprints."""
    return field(default=default, metadata={"execution": True})


def without_execution(config: C, **kept: Any) -> C:
    """The settings with every `execution` field at its default, but for those in `kept`, which get the given values.

    Two configurations that ask for the same result become equal.
    """
    settings: Any = config
    changed: dict[str, Any] = {}
    entry: Any
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        if entry.metadata.get("execution"):
            changed[entry.name] = entry.default_factory() if entry.default is MISSING else entry.default
        elif is_dataclass(value):
            changed[entry.name] = without_execution(value)
    result: C = replace(settings, **{**changed, **kept})
    return result


def added_later(default: Any) -> Any:
    """A field that was added after models had been saved: a saved file without it means the default."""
    return field(default=default, metadata={"later": True})


def require(condition: bool, key: str, value: object, rule: str) -> None:
    """Raise `ConfigError` naming the key, its value and the rule unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{key}={value!r}: {rule}")


def one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `ConfigError` unless `value` is one of `choices`."""
    require(value in choices, key, value, f"must be one of {', '.join(choices)}")
