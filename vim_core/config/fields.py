"""Field kinds and checks that the settings classes are built with."""

from __future__ import annotations

import functools
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from vim_core.errors import ConfigError

C = TypeVar("C")


@dataclass(frozen=True)
class Range:
    """The numbers that a setting, or each entry of a list, may be: from `low` to `high`; NaN is in no range.

    `above` and `below` leave out `low` and `high` themselves.
    """

    low: float = float("-inf")
    high: float = float("inf")
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        if self.high == float("inf"):
            if self.low == 0:
                return "must be positive" if self.above else "must be 0 or positive"
            return f"must be at least {self.low:g}"
        return f"must lie in {'(' if self.above else '['}{self.low:g}, {self.high:g}{')' if self.below else ']'}"


PositiveInt = Annotated[int, Range(0, above=True)]
Count = Annotated[int, Range(0)]
Seed = Annotated[int, Range(-(2**63), 2**63 - 1)]
"""What torch's generators take."""
PositiveFloat = Annotated[float, Range(0, above=True)]
Amount = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
PositiveShare = Annotated[float, Range(0, 1, above=True)]
ShareBelowOne = Annotated[float, Range(0, 1, below=True)]
InnerShare = Annotated[float, Range(0, 1, above=True, below=True)]


@functools.cache
def ranges(cls: Any) -> dict[str, Range]:
    """The range of every numeric setting of a class that has one, by name; of a list, that of its entries."""
    found = {}
    for name, kind in get_type_hints(cls, include_extras=True).items():
        inner = get_args(kind)[0] if get_origin(kind) is list else kind
        declared = [each for each in getattr(inner, "__metadata__", ()) if isinstance(each, Range)]
        if declared:
            found[name] = declared[0]
    return found


class Ranged:
    """Base of settings classes: a number outside its declared `Range` is refused when the settings are made."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` for the first number out of range, named as in `select.count`."""
        cls: Any = type(self)
        group = cls.__name__.removesuffix("Config").lower()
        for name, allowed in ranges(cls).items():
            value = getattr(self, name)
            inside = all(each in allowed for each in (value if isinstance(value, list) else [value]))
            require(inside, f"{group}.{name}", value, str(allowed))


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


def new_setting(default: Any) -> Any:
    """As `added_later`, and left out of fingerprints at its default: artifacts of before it are found under it."""
    return field(default=default, metadata={"later": True, "unmarked": True})


def require(condition: bool, key: str, value: object, rule: str) -> None:
    """Raise `ConfigError` naming the key, its value and the rule unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{key}={value!r}: {rule}")


def one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `ConfigError` unless `value` is one of `choices`."""
    require(value in choices, key, value, f"must be one of {', '.join(choices)}")
