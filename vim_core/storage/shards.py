"""Shard files: safetensors written as a stream and read by rows, on any fsspec address.

The format is safetensors' own (eight bytes of header length, a JSON header, raw little-endian data), so any of its
readers opens a shard. Written here because the library reads whole files only from local disks and writes from one
buffer that doubles the memory; a restart at another world size wants a few rows of each tensor from a bucket.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vim_core.storage import io

NAMES = {
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
DTYPES = {name: dtype for dtype, name in NAMES.items()}
CHUNK = 16 * 1024 * 1024


def write(uri: str, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> tuple[int, str]:
    """Write contiguous CPU tensors; returns the file's size in bytes and its sha256.

    Raises:
        OSError: the store does not take it; what was written of it so far may lie there.
    """
    header = _header(tensors, meta)
    digest, size = hashlib.sha256(), 0
    with io.open_write(uri) as stream:
        blocks: list[bytes | memoryview] = [len(header).to_bytes(8, "little"), header]
        for block in (*blocks, *map(_bytes, tensors.values())):
            stream.write(block)
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def digest(uri: str) -> tuple[int, str]:
    """Size in bytes and sha256 of a file as it lies there. Raises `FileNotFoundError`."""
    found, size = hashlib.sha256(), 0
    with io.open_read(uri) as stream:
        while block := stream.read(CHUNK):
            found.update(block)
            size += len(block)
    return size, found.hexdigest()


def _header(tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(meta)}
    offset = 0
    for name, value in tensors.items():
        end = offset + value.numel() * value.element_size()
        entries[name] = {"dtype": NAMES[value.dtype], "shape": list(value.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    # Data starts at a multiple of eight bytes, as safetensors' own writer has it.
    return text + b" " * (-len(text) % 8)


def _bytes(value: Tensor) -> memoryview:
    """The tensor's memory; numpy has no bfloat16, but bytes are bytes."""
    raw: Any = value.reshape(-1).view(torch.uint8).numpy()
    return memoryview(raw)


@dataclass
class Shard:
    """One shard file, read by rows."""

    uri: str

    @cached_property
    def _layout(self) -> tuple[int, dict[str, Any]]:
        """Where the data starts, and the header."""
        length = int.from_bytes(io.read_range(self.uri, 0, 8), "little")
        return 8 + length, json.loads(io.read_range(self.uri, 8, 8 + length))

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows `start … stop - 1` along the first axis of a tensor; all of it, scalars too, by default.

        Raises:
            KeyError: the shard has no tensor of this name.
        """
        begin, header = self._layout
        entry = header[name]
        shape, (first, last) = entry["shape"], entry["data_offsets"]
        if shape:
            stop = shape[0] if stop is None else stop
            each = (last - first) // max(1, shape[0])
            first, last, shape = first + start * each, first + stop * each, [stop - start, *shape[1:]]
        data = bytearray(io.read_range(self.uri, begin + first, begin + last))
        dtype = DTYPES[entry["dtype"]]
        return torch.frombuffer(data, dtype=dtype).view(shape) if data else torch.empty(shape, dtype=dtype)
