"""Files of one sharded checkpoint: a shard and its record per worker, and the index that makes the checkpoint exist.

    step-00000020/<writer>-00001-of-00002.safetensors    the tensors of one worker
    step-00000020/<writer>-00001-of-00002.json           record of that shard, written after it
    step-00000020/index.json                             the records of all shards, written last

`<writer>` identifies the attempt: shards left by a killed attempt are never taken for those of the next one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from vim_core.distributed.fsdp import copy_here, rows_here, split_by_rows
from vim_core.errors import ResumeError
from vim_core.storage import io, tensor_files

FORMAT = 2
INDEX = "index.json"


class DamagedCheckpoint(Exception):
    """A checkpoint cannot be used: it has no index, or a shard is missing or differs from what the index says."""


@dataclass(frozen=True)
class TensorShard:
    """Rows `start … stop - 1` of a tensor of this shape, as one worker writes them; (0, 0) for a scalar."""

    value: Tensor
    shape: tuple[int, ...]
    rows: tuple[int, int]


@dataclass
class ShardRecord:
    """One worker's shard: file name, size, sha256, and per tensor {shape, dtype, rows}."""

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
    format: int = FORMAT


def step_folder(folder: str, step: int) -> str:
    """Folder of the checkpoint after `step` steps."""
    return io.join(folder, f"step-{step:08d}")


def shard_name(writer: str, rank: int, world: int) -> str:
    """Name of a worker's files, without suffix."""
    return f"{writer}-{rank:05d}-of-{world:05d}"


def shard_state_dict(state: Mapping[str, Tensor], rank: int, world: int) -> Iterator[tuple[str, TensorShard]]:
    """The shards that worker `rank` writes, copied to the CPU: its rows of sharded tensors, its share of the others.

    Raises:
        TypeError: a tensor is sharded in another way than by rows.
    """

    def copied(value: Tensor) -> Tensor:
        # A copy also on the CPU: training goes on while it is written.
        return value.detach().to("cpu", copy=True).contiguous()

    loads = [0] * world
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
                yield name, TensorShard(copied(value.to_local()), shape, rows)
            continue
        owner = loads.index(min(loads))
        loads[owner] += value.numel() * value.element_size() + 1
        if owner == rank:
            yield name, TensorShard(copied(value), shape, (0, shape[0] if shape else 0))


def write_shard(folder: str, name: str, shards: dict[str, TensorShard]) -> ShardRecord:
    """Write one worker's shard.

    Raises:
        OSError, StorageError: writing failed.
    """
    file = f"{name}.safetensors"
    values = {key: shard.value for key, shard in shards.items()}
    size, sha256 = tensor_files.write_tensors(io.join(folder, file), values, {})
    dtypes = {key: tensor_files.DTYPE_NAMES[value.dtype] for key, value in values.items()}
    tensors = {key: {"shape": shard.shape, "dtype": dtypes[key], "rows": shard.rows} for key, shard in shards.items()}
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
    if index.format != FORMAT:
        raise DamagedCheckpoint(f"the index has format {index.format}, this program reads {FORMAT}")
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
    def _shards(self) -> dict[str, list[tuple[int, int, str]]]:
        """Per tensor (first row, end, file) of its shards, in row order."""
        shards: dict[str, list[tuple[int, int, str]]] = {}
        for record in self.index.parts:
            for name, entry in record.tensors.items():
                shards.setdefault(name, []).append((*entry["rows"], record.file))
        return {name: sorted(rows) for name, rows in shards.items()}

    @cached_property
    def _entries(self) -> dict[str, dict[str, Any]]:
        return {name: entry for record in self.index.parts for name, entry in record.tensors.items()}

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
            return self._file(self._shards[name][0][2]).rows(name)
        stop = shape[0] if stop is None else stop
        parts = []
        for first, end, file in self._shards[name]:
            a, b = max(start, first), min(stop, end)
            if a < b:
                parts.append(self._file(file).rows(name, a - first, b - first))
        if sum(len(part) for part in parts) != stop - start:
            raise DamagedCheckpoint(f"rows {start} to {stop} of {name} are incomplete")
        return torch.cat(parts) if parts else torch.empty(0, *shape[1:], dtype=dtype)

    def _file(self, file: str) -> tensor_files.TensorFile:
        return self._open.setdefault(file, tensor_files.TensorFile(io.join(self.folder, file)))
