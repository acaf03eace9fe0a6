"""How one checkpoint lies in its folder: a shard and a part a worker, and the index that makes it exist.

    step-00000020/<writer>-00001-of-00002.safetensors    the tensors of one worker
    step-00000020/<writer>-00001-of-00002.json           what that shard holds, once it is whole
    step-00000020/index.json                             all parts together, written last

`<writer>` names the attempt: shards that a killed attempt left behind are never taken for those of the next one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vim_core.checkpoint.state import Piece
from vim_core.storage import io, tensor_files

FORMAT = 2
INDEX = "index.json"


class Damaged(Exception):
    """A checkpoint cannot be used: a shard is missing or is not what the index says."""


@dataclass
class Part:
    """One worker's shard: its file, size, sha256, and per tensor {shape, dtype, rows}."""

    file: str
    bytes: int
    sha256: str
    tensors: dict[str, dict[str, Any]]


@dataclass
class Index:
    """A whole checkpoint."""

    step: int
    identity: dict[str, Any]
    writer: dict[str, Any]
    parts: list[Part]
    format: int = FORMAT


def step_folder(folder: str, step: int) -> str:
    """Where the checkpoint after `step` steps lies."""
    return io.join(folder, f"step-{step:08d}")


def part_name(writer: str, rank: int, world: int) -> str:
    """Name of a worker's files, without their ending."""
    return f"{writer}-{rank:05d}-of-{world:05d}"


def write_part(folder: str, name: str, pieces: dict[str, Piece]) -> Part:
    """Write one worker's shard.

    Raises:
        OSError: the store does not take it.
    """
    file = f"{name}.safetensors"
    values = {key: piece.value for key, piece in pieces.items()}
    size, sha256 = tensor_files.write_tensors(io.join(folder, file), values, {})
    dtypes = {name: tensor_files.DTYPE_NAMES[value.dtype] for name, value in values.items()}
    tensors = {name: {"shape": p.shape, "dtype": dtypes[name], "rows": p.rows} for name, p in pieces.items()}
    return Part(file, size, sha256, tensors)


def to_json(value: Part | Index) -> bytes:
    """A part or an index as a file."""
    return json.dumps(asdict(value)).encode()


def read_part(uri: str) -> Part:
    """A part that a worker left. Raises `FileNotFoundError`."""
    return Part(**json.loads(io.read_bytes(uri)))


def read_index(folder: str) -> Index:
    """The index in a checkpoint's folder.

    Raises:
        Damaged: there is none, or it cannot be read.
    """
    try:
        record = json.loads(io.read_bytes(io.join(folder, INDEX)))
        index = Index(**record | {"parts": [Part(**part) for part in record["parts"]]})
    except FileNotFoundError:
        raise Damaged("there is no index") from None
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged(f"the index cannot be read: {error!r}") from error
    if index.format != FORMAT:
        raise Damaged(f"the index has format {index.format}, this program reads {FORMAT}")
    return index


def verify(folder: str, part: Part) -> None:
    """Read a shard to its end.

    Raises:
        Damaged: it is gone, cut or changed.
    """
    try:
        found = io.checksum(io.join(folder, part.file))
    except FileNotFoundError:
        raise Damaged(f"{part.file} is gone") from None
    if found != (part.bytes, part.sha256):
        raise Damaged(f"{part.file} is not what was written")


@dataclass
class Saved:
    """A checkpoint to restore from; tensors are read when asked for, by rows, from whichever shards hold them."""

    folder: str
    index: Index
    _open: dict[str, tensor_files.TensorFile] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """How many steps were done."""
        return self.index.step

    @cached_property
    def _pieces(self) -> dict[str, list[tuple[int, int, str]]]:
        """Per tensor its rows and the file that has them, in row order."""
        found: dict[str, list[tuple[int, int, str]]] = {}
        for part in self.index.parts:
            for name, entry in part.tensors.items():
                found.setdefault(name, []).append((*entry["rows"], part.file))
        return {name: sorted(rows) for name, rows in found.items()}

    @cached_property
    def _shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        entries = {name: entry for part in self.index.parts for name, entry in part.tensors.items()}
        return {name: (tuple(e["shape"]), tensor_files.DTYPES[e["dtype"]]) for name, e in entries.items()}

    def names(self) -> set[str]:
        """Of all tensors."""
        return set(self._pieces)

    def describe(self, name: str) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape and type of a whole tensor."""
        return self._shapes[name]

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Some rows of a tensor, or all of it.

        Raises:
            Damaged: no shard has them.
        """
        shape, dtype = self._shapes[name]
        if not shape:
            return self._shard(self._pieces[name][0][2]).rows(name)
        stop = shape[0] if stop is None else stop
        found = list(self._overlapping(name, start, stop))
        if sum(len(value) for value in found) != stop - start:
            raise Damaged(f"rows {start} to {stop} of {name} are not all there")
        return torch.cat(found) if found else torch.empty(0, *shape[1:], dtype=dtype)

    def _overlapping(self, name: str, start: int, stop: int) -> Iterator[Tensor]:
        for first, last, file in self._pieces[name]:
            a, b = max(start, first), min(stop, last)
            if a < b:
                yield self._shard(file).rows(name, a - first, b - first)

    def _shard(self, file: str) -> tensor_files.TensorFile:
        return self._open.setdefault(file, tensor_files.TensorFile(io.join(self.folder, file)))
