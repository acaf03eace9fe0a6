"""What every settings class is built with."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from vim_core.errors import ConfigError


def where(default: Any) -> Any:
    """A field that says how the work runs and never changes its result: left out of fingerprints."""
    return field(default=default, metadata={"where": True})


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
