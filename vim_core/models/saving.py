"""Weights as safetensors and settings as JSON: strict in both directions, no pickle."""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any, TypeVar

from torch import Tensor, nn

from vim_core import io
from vim_core.errors import DataError

T = TypeVar("T")


def build(cls: type[T], values: dict[str, Any]) -> T:
    """A settings dataclass from nested plain values.

    Raises:
        DataError: a key is missing or unknown.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if fields != set(values):
        odd = ", ".join(sorted(fields ^ set(values)))
        raise DataError(f"{cls.__name__}: missing or unknown keys: {odd}")
    made = {
        name: build(hints[name], value) if dataclasses.is_dataclass(hints[name]) else value
        for name, value in values.items()
    }
    return cls(**made)


def read_config(uri: str, kind: str, key: str, cls: type[T]) -> T:
    """Settings of a saved model.

    Raises:
        DataError: the file is missing or damaged, or describes another kind of model.
    """
    try:
        record = json.loads(io.read_bytes(uri))
    except FileNotFoundError:
        raise DataError(f"{uri}: no such file; a model is its weights and the config.json beside them") from None
    except ValueError as error:
        raise DataError(f"{uri}: not JSON ({error})") from None
    if record.get("kind") != kind:
        raise DataError(f"{uri} describes a {record.get('kind')!r} model, expected {kind!r}")
    return build(cls, record[key])


def to_bytes(module: nn.Module) -> bytes:
    """All persistent tensors of a module as safetensors bytes, contiguous and on the CPU."""
    from safetensors.torch import save

    return save({name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()})


def tensors(uri: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        DataError: the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(io.read_bytes(uri))
    except FileNotFoundError:
        raise DataError(f"{uri}: no such weight file") from None
    except SafetensorError as error:
        raise DataError(f"{uri}: not a whole safetensors file ({error})") from None


def load_into(module: nn.Module, uri: str) -> None:
    """Load a safetensors file strictly: every name and shape must match.

    Raises:
        DataError: a tensor is missing, unknown or of another shape.
    """
    try:
        module.load_state_dict(tensors(uri), strict=True)
    except RuntimeError as error:
        raise DataError(f"{uri} does not fit {type(module).__name__}: {error}") from None
