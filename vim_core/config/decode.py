"""Dataclasses from plain values, such as parsed YAML or JSON: exactly their keys and types, errors by dotted key."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from vim_core.errors import ConfigError, VimError
from vim_core.text import hint

T = TypeVar("T")


def decode(
    cls: type[T],
    tree: object,
    origin: str = "",
    *,
    key: str = "",
    error: type[VimError] = ConfigError,
    defaults: bool = False,
) -> T:
    """An instance of a dataclass from nested mappings, lists and plain values; the inverse of `dataclasses.asdict`.

    Args:
        cls: dataclass whose fields are plain types, `Any`, `Literal`, dataclasses, or lists, tuples, string-keyed
            dictionaries and unions (`| None`) of these.
        tree: a mapping of its field names. A whole number is taken for a float; nothing else is converted.
        origin: file or other source of `tree`, which error messages begin with.
        key: dotted key at which `tree` stands in `origin`, which is put before the names in error messages.
        error: class of the errors raised.
        defaults: missing keys take the field's default; otherwise only those of `fields.added_later` may be missing.

    Raises:
        error: a key is unknown or missing, a value has another type or is not finite, or the class refuses its values.
    """
    try:
        made: T = _dataclass(cls, tree, key, defaults)
    except ConfigError as problem:
        raise error(f"{origin}: {problem}" if origin else str(problem)) from problem
    return made


@functools.cache
def field_types(cls: Any) -> dict[str, Any]:
    """The type of every field that a dataclass is made with, by name and in order; annotations are resolved."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _dataclass(cls: Any, tree: object, key: str, defaults: bool) -> Any:
    if not isinstance(tree, dict):
        raise ConfigError(f"{key or cls.__name__}={tree!r}: expected a mapping, found {type(tree).__name__}")
    kinds = field_types(cls)
    dotted = {name: f"{key}.{name}" if key else str(name) for name in (*kinds, *tree)}
    for name in tree:
        if name not in kinds:
            raise ConfigError(f"{dotted[name]}: unknown key; {hint(dotted[name], [dotted[each] for each in kinds])}")
    optional = {field.name for field in dataclasses.fields(cls) if _has_default(field, every=defaults)}
    missing = [dotted[name] for name in kinds if name not in tree and name not in optional]
    if missing:
        raise ConfigError(f"missing {', '.join(missing)}")
    values = {name: _value(kind, tree[name], dotted[name], defaults) for name, kind in kinds.items() if name in tree}
    try:
        return cls(**values)
    except ConfigError as problem:
        # `name=value: rule`, by a class that does not know at which key it stands.
        name, equals, rest = str(problem).partition("=")
        parts = name.split(".")
        while len(parts) > 1 and parts[0] not in kinds:
            parts.pop(0)
        raise ConfigError(f"{key}.{'.'.join(parts)}={rest}" if key and equals else str(problem)) from problem


def _has_default(field: dataclasses.Field[Any], every: bool) -> bool:
    given = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    return given and (every or bool(field.metadata.get("later")))


def _value(kind: Any, value: Any, key: str, defaults: bool) -> Any:
    origin, inside = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, key, defaults)
    if origin in (Union, types.UnionType):
        return _union(kind, value, key, defaults)
    if origin is dict and isinstance(value, dict) and all(type(name) is inside[0] for name in value):
        return {name: _value(inside[1], each, f"{key}.{name}", defaults) for name, each in value.items()}
    if (origin is list and isinstance(value, list)) or (origin is tuple and isinstance(value, list | tuple)):
        each_kind = inside if origin is tuple and inside[-1] is not ... else inside[:1] * len(value)
        if len(each_kind) == len(value):
            pairs = enumerate(zip(each_kind, value, strict=True))
            return origin(_value(each, item, f"{key}[{index}]", defaults) for index, (each, item) in pairs)
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind is Any or (kind is not float and type(value) is kind):
        return value
    if origin is Literal and any(type(value) is type(choice) and value == choice for choice in inside):
        return value
    raise _wrong_type(kind, value, key)


def _union(kind: Any, value: Any, key: str, defaults: bool) -> Any:
    # The value's own type comes first: 1 is the int of `float | int`.
    options = sorted(get_args(kind), key=lambda option: type(value) is not option)
    others = [option for option in options if option is not types.NoneType]
    if len(options) == 2 and len(others) == 1 and value is not None:
        return _value(others[0], value, key, defaults)  # its message says more than that nothing fits
    for option in options:
        with contextlib.suppress(ConfigError):
            return _value(option, value, key, defaults)
    raise _wrong_type(kind, value, key)


def _wrong_type(kind: Any, value: object, key: str) -> ConfigError:
    spelled = "a finite number" if kind is float else kind.__name__ if isinstance(kind, type) else str(kind)
    return ConfigError(f"{key}={value!r}: expected {spelled}, found {type(value).__name__}")
