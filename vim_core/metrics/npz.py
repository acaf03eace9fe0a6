"""Small npz files of named arrays: equal arrays give equal bytes, and nothing is unpickled."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vim_core.errors import DataError


def pack(**arrays: Any) -> bytes:
    """The arrays as the bytes of an npz file."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def names(data: bytes) -> set[str]:
    """Names of the arrays in a file; empty where it is no npz file."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            return {name.removesuffix(".npy") for name in file.namelist()}
    except zipfile.BadZipFile:
        return set()


def unpack(data: bytes, names: Iterable[str], kind: str) -> dict[str, Any]:
    """The arrays of these names from a file that `pack` made.

    Raises:
        DataError: another file, or an array is missing; `kind` says in the message what was expected.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"not {kind} ({error})") from error


def unpack_checked(data: bytes, expected: Mapping[str, tuple[str, int]], kind: str) -> dict[str, Any]:
    """The same where each array must have the dtype and the number of dimensions that `expected` gives it."""
    arrays = unpack(data, expected, kind)
    for name, (dtype, dimensions) in expected.items():
        array = arrays[name]
        if array.dtype != np.dtype(dtype) or array.ndim != dimensions:
            raise DataError(f"not {kind} ({name} is {array.dtype} of shape {array.shape})")
    return arrays
