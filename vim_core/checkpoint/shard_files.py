"""Files of one sharded checkpoint: a shard and its record per worker, and the index that makes the checkpoint exist.

    step-00000020/<writer>-00001-of-00002.safetensors    the tensors of one worker
    step-00000020/<writer>-00001-of-00002.json           record of that shard, written after it
    step-00000020/index.json                             the records of all shards, written last

`<writer>` identifies the attempt: shards left by a killed attempt are never taken for those of the next one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from vim_core.distributed.fsdp import copy_here, rows_here, split_by_rows
from vim_core.distributed.runtimes.base import Runtime
from vim_core.errors import ResumeError
from vim_core.storage import io, tensor_files

FORMAT, PIECES = 2, 3
"""Formats of an index; in the second, which XLA alone writes, a record may have parts of rows, or several parts."""
INDEX = "index.json"


class DamagedCheckpoint(Exception):
    """A checkpoint cannot be used: it has no index, or a shard is missing or differs from what the index says."""


@dataclass(frozen=True)
class TensorShard:
    """A part of a tensor of this shape, as one worker writes it.

    Attributes:
        rows: its first row and end; (0, 0) for a scalar.
        columns: its first column and end, if it has only some of them.
        name: of the tensor, if its key in the file is another one, because the file has several of its parts.
    """

    value: Tensor
    shape: tuple[int, ...]
    rows: tuple[int, int]
    columns: tuple[int, int] | None = None
    name: str = ""


@dataclass
class ShardRecord:
    """One worker's shard: file name, size, sha256, and per tensor {shape, dtype, rows}, maybe {columns, name}."""

    file: str
    bytes: int
    sha256: str
    tensors: dict[str, dict[str, Any]]


@dataclass
class CheckpointIndex:
    """Content of `index.json`."""

    step: int
    identity: dict[str, Any]
    writer: dict[str, Any]
    parts: list[ShardRecord]
    format: int = 0
    """0 for the first that can describe the parts."""

    def __post_init__(self) -> None:
        if not self.format:
            entries = [entry for part in self.parts for entry in part.tensors.values()]
            self.format = PIECES if any({"columns", "name"} & entry.keys() for entry in entries) else FORMAT


def step_folder(folder: str, step: int) -> str:
    """Folder of the checkpoint after `step` steps."""
    return io.join(folder, f"step-{step:08d}")


def shard_name(writer: str, rank: int, world: int) -> str:
    """Name of a worker's files, without suffix."""
    return f"{writer}-{rank:05d}-of-{world:05d}"


def shard_state_dict(state: Mapping[str, Tensor], runtime: Runtime) -> Iterator[tuple[str, TensorShard]]:
    """The shards that this worker writes, copied to the CPU: its parts of sharded tensors, its share of the others.

    Copies also of what is there already, because training goes on while they are written.

    Raises:
        TypeError: a tensor is sharded in another way than by rows, or on XLA by rows and columns.
    """
    loads = [0] * runtime.world
    by_copy: dict[int, int] = {}
    for name, value in state.items():
        shape = tuple(value.shape)
        if isinstance(value, DTensor):
            if not split_by_rows(value):
                raise TypeError(f"{name}: split as {value.placements}, checkpoints know tensors split by rows only")
            rows, (copy, copies) = rows_here(value), copy_here(value)
            # Of several copies one is written, each worker's share of them about as large.
            owner = min(range(copies), key=lambda index: by_copy.get(index, 0))
            by_copy[owner] = by_copy.get(owner, 0) + value.numel() * value.element_size()
            if owner == copy and rows[0] < rows[1]:
                yield name, TensorShard(value.to_local().detach().to("cpu", copy=True).contiguous(), shape, rows)
            continue
        parts = runtime.own_parts(value)
        if parts is not None:
            yield from _pieces(name, shape, parts)
            continue
        owner = loads.index(min(loads))
        loads[owner] += value.numel() * value.element_size() + 1
        if owner == runtime.rank:
            own = runtime.to_host(value)
            yield (
                name,
                TensorShard(own.clone() if value.device.type == "cpu" else own, shape, (0, shape[0] if shape else 0)),
            )


def _pieces(
    name: str, shape: tuple[int, ...], parts: list[tuple[Tensor, tuple[slice, ...]]]
) -> Iterator[tuple[str, TensorShard]]:
    """The parts of a tensor of one or more axes, joined where they meet: first along rows, then along columns."""
    columns = shape[1] if len(shape) > 1 else 0
    known: list[tuple[int, int, int, int, Tensor]] = []
    for value, (row, *others) in parts:
        if any(place.stop - place.start < size for place, size in zip(others[1:], shape[2:], strict=True)):
            raise TypeError(f"{name}: split along an axis after the second; checkpoints know rows and columns")
        column = (others[0].start, others[0].stop) if others else (0, 0)
        known.append((row.start, row.stop, *column, value))
    joined: list[tuple[int, int, int, int, Tensor]] = []
    for a, b, c, d, value in sorted(known, key=lambda part: part[:4]):
        if joined and joined[-1][:2] == (a, b) and joined[-1][3] == c < d:
            _, _, first, _, before = joined.pop()
            joined.append((a, b, first, d, torch.cat([before, value], 1)))
        else:
            joined.append((a, b, c, d, value))
    pieces: list[tuple[int, int, int, int, Tensor]] = []
    for a, b, c, d, value in sorted(joined, key=lambda part: (part[2], part[3], part[0])):
        if pieces and pieces[-1][2:4] == (c, d) and pieces[-1][1] == a:
            first, _, _, _, before = pieces.pop()
            pieces.append((first, b, c, d, torch.cat([before, value])))
        else:
            pieces.append((a, b, c, d, value))
    for number, (a, b, c, d, value) in enumerate(pieces):
        some = (c, d) if (c, d) != (0, columns) else None
        key, own = (f"{name}#{number}", name) if number else (name, "")
        yield key, TensorShard(value.contiguous(), shape, (a, b), some, own)


def write_shard(folder: str, name: str, shards: dict[str, TensorShard]) -> ShardRecord:
    """Write one worker's shard.

    Raises:
        OSError, StorageError: writing failed.
    """
    file = f"{name}.safetensors"
    values = {key: shard.value for key, shard in shards.items()}
    size, sha256 = tensor_files.write_tensors(io.join(folder, file), values, {})
    dtypes = {key: tensor_files.DTYPE_NAMES[value.dtype] for key, value in values.items()}
    tensors: dict[str, dict[str, Any]] = {}
    for key, shard in shards.items():
        tensors[key] = {"shape": shard.shape, "dtype": dtypes[key], "rows": shard.rows}
        tensors[key] |= {"columns": shard.columns} if shard.columns else {}
        tensors[key] |= {"name": shard.name} if shard.name else {}
    return ShardRecord(file, size, sha256, tensors)


def to_json_bytes(value: ShardRecord | CheckpointIndex) -> bytes:
    """A record or an index as a file."""
    return json.dumps(asdict(value)).encode()


def open_checkpoint(
    folder: str, identity: dict[str, Any] | None = None, rank: int = 0, world: int = 1
) -> SavedCheckpoint:
    """The checkpoint in a folder, after a check of its index and of each `world`-th shard from number `rank` on.

    Raises:
        DamagedCheckpoint: there is no index, or a file is missing or differs from what was written.
        ResumeError: it belongs to another training than `identity`.
    """
    try:
        record = json.loads(io.read_bytes(io.join(folder, INDEX)))
        index = CheckpointIndex(**record | {"parts": [ShardRecord(**part) for part in record["parts"]]})
    except FileNotFoundError:
        raise DamagedCheckpoint("there is no index") from None
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedCheckpoint(f"the index cannot be read: {error!r}") from error
    if index.format not in (FORMAT, PIECES):
        raise DamagedCheckpoint(f"the index has format {index.format}, this program reads {FORMAT} and {PIECES}")
    if identity is not None and index.identity != identity:
        raise ResumeError(f"{folder} belongs to {index.identity}, not to {identity}; remove it")
    for shard in index.parts[rank::world]:
        try:
            content = io.checksum(io.join(folder, shard.file))
        except FileNotFoundError:
            raise DamagedCheckpoint(f"{shard.file} is gone") from None
        if content != (shard.bytes, shard.sha256):
            raise DamagedCheckpoint(f"{shard.file} differs from what was written")
    return SavedCheckpoint(folder, index)


class _Part(NamedTuple):
    """Rows and, unless it has all, columns of a part of a tensor; its file and its key there."""

    first: int
    end: int
    columns: tuple[int, ...]
    file: str
    key: str


@dataclass
class SavedCheckpoint:
    """A checkpoint to restore from; it reads rows on demand from the shards that hold them."""

    folder: str
    index: CheckpointIndex
    _open: dict[str, tensor_files.TensorFile] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """Number of steps done."""
        return self.index.step

    @cached_property
    def _shards(self) -> dict[str, list[_Part]]:
        """The parts of each tensor, in row order."""
        shards: dict[str, list[_Part]] = {}
        for record in self.index.parts:
            for key, entry in record.tensors.items():
                columns = entry.get("columns")
                first, end = entry["rows"]
                part = _Part(first, end, tuple(columns) if columns else (), record.file, key)
                shards.setdefault(entry.get("name", key), []).append(part)
        return {name: sorted(parts) for name, parts in shards.items()}

    @cached_property
    def _entries(self) -> dict[str, dict[str, Any]]:
        """The record entry of one part of each tensor."""
        return {entry.get("name", key): entry for record in self.index.parts for key, entry in record.tensors.items()}

    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._entries)

    def describe(self, name: str) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape and type of a whole tensor."""
        entry = self._entries[name]
        return tuple(entry["shape"]), tensor_files.DTYPES[entry["dtype"]]

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows `start … stop - 1` of a tensor, by default all of it.

        Raises:
            DamagedCheckpoint: no shard has them.
        """
        shape, dtype = self.describe(name)
        if not shape:
            (only,) = self._shards[name][:1]
            return self._file(only.file).rows(only.key)
        stop = shape[0] if stop is None else stop
        parts, columns = [], False
        for part in self._shards[name]:
            a, b = max(start, part.first), min(stop, part.end)
            if a < b:
                parts.append((part, a - start, self._file(part.file).rows(part.key, a - part.first, b - part.first)))
                columns = columns or bool(part.columns)
        size = (stop - start, *shape[1:])
        if sum(value.numel() for _, _, value in parts) != math.prod(size):
            raise DamagedCheckpoint(f"rows {start} to {stop} of {name} are incomplete")
        if not columns:
            return torch.cat([value for _, _, value in parts]) if parts else torch.empty(size, dtype=dtype)
        whole = torch.empty(size, dtype=dtype)
        for part, row, value in parts:
            whole[row : row + len(value), slice(*part.columns) if part.columns else slice(None)] = value
        return whole

    def _file(self, file: str) -> tensor_files.TensorFile:
        return self._open.setdefault(file, tensor_files.TensorFile(io.join(self.folder, file)))
