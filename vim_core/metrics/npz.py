"""Small npz files of named arrays: the same bytes for the same arrays, nothing pickled, every array checked."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
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


def unpack(data: bytes, expected: Mapping[str, tuple[str, int]], what: str) -> dict[str, Any]:
    """The arrays of a file that `pack` made, each of the (dtype, dimensions) that `expected` names.

    Raises:
        DataError: another file, or an array missing or of another kind; `what` says in it what was wanted.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in expected}
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"not {what} ({error}): run statistics again") from error
    for name, (dtype, dimensions) in expected.items():
        found = arrays[name]
        if found.dtype != np.dtype(dtype) or found.ndim != dimensions:
            raise DataError(f"not {what} ({name} is {found.dtype} of shape {found.shape}): run statistics again")
    return arrays


def arrays(data: bytes, names: Sequence[str], what: str) -> dict[str, Any]:
    """The arrays of these names, of any kind; raises as `unpack`."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"not {what} ({error})") from error
