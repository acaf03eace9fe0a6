"""What every settings class is built with."""

from __future__ import annotations

from dataclasses import MISSING, field, fields, is_dataclass, replace
from typing import Any, TypeVar

from vim_core.errors import ConfigError

C = TypeVar("C")


def where(default: Any) -> Any:
    """A field that says how the work runs and never changes its result: left out of fingerprints."""
    return field(default=default, metadata={"where": True})


def essential(config: C, **kept: Any) -> C:
    """The settings with every `where` field at its default, so that two runs that ask for the same say the same.

    `kept` are values of `where` fields that stay.
    """
    given: Any = config
    changed: dict[str, Any] = {}
    entry: Any
    for entry in fields(given):
        value = getattr(given, entry.name)
        if entry.metadata.get("where"):
            changed[entry.name] = entry.default_factory() if entry.default is MISSING else entry.default
        elif is_dataclass(value):
            changed[entry.name] = essential(value)
    made: C = replace(given, **{**changed, **kept})
    return made


def later(default: Any) -> Any:
    """A field that joined its class after models were saved: a file without it means the default."""
    return field(default=default, metadata={"later": True})


def require(condition: bool, key: str, value: object, rule: str) -> None:
    """Raise `ConfigError` naming the key, its value and the rule unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{key}={value!r}: {rule}")


def one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `ConfigError` unless `value` is one of `choices`."""
    require(value in choices, key, value, f"must be one of {', '.join(choices)}")
