"""Safetensors files written as a stream and read by rows, at any fsspec address.

The format is safetensors' own (eight bytes of header length, a JSON header, raw little-endian data), so that any of its
readers opens the files. The library itself reads only local files and serialises into one buffer, which doubles the
memory; resuming at another world size reads a few rows of each tensor from a bucket.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vim_core.storage import io

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


def write_tensors(uri: str, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> tuple[int, str]:
    """Write contiguous CPU tensors and string metadata; returns the file's size in bytes and its sha256.

    Raises:
        OSError, StorageError: writing failed; an incomplete file may remain.
    """
    entries: dict[str, Any] = {"__metadata__": dict(meta)}
    offset = 0
    for name, value in tensors.items():
        end = offset + value.numel() * value.element_size()
        entries[name] = {"dtype": DTYPE_NAMES[value.dtype], "shape": list(value.shape), "data_offsets": [offset, end]}
        offset = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    # Data starts at a multiple of eight bytes, as safetensors' own writer has it.
    header += b" " * (-len(header) % 8)
    # As uint8, because numpy has no bfloat16.
    arrays: Iterator[Any] = (value.reshape(-1).view(torch.uint8).numpy() for value in tensors.values())
    blocks: list[Any] = [len(header).to_bytes(8, "little"), header, *(memoryview(array) for array in arrays)]
    digest, size = hashlib.sha256(), 0
    with io.open_write(uri) as stream:
        for block in blocks:
            stream.write(block)
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


@dataclass
class TensorFile:
    """A safetensors file that is read by rows."""

    uri: str

    @cached_property
    def _layout(self) -> tuple[int, dict[str, Any]]:
        """Offset of the data in the file, and the header."""
        length = int.from_bytes(io.read_range(self.uri, 0, 8), "little")
        return 8 + length, json.loads(io.read_range(self.uri, 8, 8 + length))

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows `start … stop - 1` along the first axis of a tensor; by default the whole tensor, also a scalar.

        Raises:
            KeyError: the file has no tensor of this name.
        """
        begin, header = self._layout
        entry = header[name]
        shape, (first, last) = entry["shape"], entry["data_offsets"]
        if shape:
            stop = shape[0] if stop is None else stop
            row_bytes = (last - first) // max(1, shape[0])
            first, last, shape = first + start * row_bytes, first + stop * row_bytes, [stop - start, *shape[1:]]
        data = bytearray(io.read_range(self.uri, begin + first, begin + last))
        dtype = DTYPES[entry["dtype"]]
        return torch.frombuffer(data, dtype=dtype).view(shape) if data else torch.empty(shape, dtype=dtype)
