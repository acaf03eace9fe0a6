"""Image tables: Parquet files of (key, label, encoded image, height, width, source)."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vim_core.data import counters
from vim_core.errors import DataError
from vim_core.storage import io

IMAGE_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
    ]
)
ROW_GROUP = 256
"""Images per row group, the unit that is read at once: about 28 MB of ImageNet's JPEGs."""

CACHED_GROUPS = 8
"""Row groups that a table keeps in memory; training interleaves this many."""


@dataclass(frozen=True)
class ImageRow:
    """One image: unique key, class (-1 for none), encoded bytes, size as decoded, and where it came from."""

    key: str
    label: int
    image: bytes
    height: int
    width: int
    source: str


def stable_hash(*words: str) -> int:
    """The sha256 of the words as an integer: the same on every machine and in every version."""
    return int.from_bytes(hashlib.sha256("\x1f".join(words).encode()).digest(), "big")


def shard_of(key: str, shards: int) -> int:
    """The shard, 0 to shards - 1, of the image with this key."""
    # The prefix makes it independent of other choices made by hash, such as the split.
    return stable_hash("shard", key) % shards


def write_images(uri: str, rows: Iterable[ImageRow]) -> int:
    """Write rows sorted by key; returns their number. Equal rows give equal bytes.

    Raises:
        DataError: a key occurs twice.
    """
    return write_sorted(uri, iter(sorted(rows, key=lambda row: row.key)))


def write_sorted(uri: str, rows: Iterator[ImageRow]) -> int:
    """Like `write_images` for rows that are already sorted by key; only one row group is held in memory.

    Raises:
        DataError: a key occurs twice or out of order.
    """
    count, last = 0, None
    # No dictionary: keys and images never repeat, and dictionaries would only double the memory.
    options: dict[str, Any] = {"use_dictionary": False, "write_statistics": ["key", "label"]}
    with io.staged(uri) as path, pq.ParquetWriter(path, IMAGE_SCHEMA, compression="zstd", **options) as writer:
        while group := list(islice(rows, ROW_GROUP)):
            for row in group:
                if last is not None and row.key <= last:
                    raise DataError(f"{uri}: key {row.key!r} after {last!r}: keys must be unique and sorted")
                last = row.key
            writer.write_table(pa.Table.from_pylist([asdict(row) for row in group], schema=IMAGE_SCHEMA))
            count += len(group)
    return count


class ImageTable:
    """One or more image files read as one table, in the given order.

    Keys and labels are read on construction; images by row group, the last few of which stay in memory. The table can
    be pickled or forked: each process opens the files for itself.

    Raises:
        DataError: a file is missing, damaged, or not an image table.
    """

    def __init__(self, uris: Sequence[str], cached_groups: int = CACHED_GROUPS) -> None:
        self.uris = list(uris)
        self.cached_groups = cached_groups
        self.keys: list[str] = []
        self.row_groups: list[int] = []
        self._groups: list[tuple[str, int]] = []
        self._clear()
        labels: list[NDArray[np.int64]] = []
        for uri in self.uris:
            file = self._file(uri)
            if not file.schema_arrow.equals(IMAGE_SCHEMA, check_metadata=False):
                raise DataError(f"{uri}: columns {file.schema_arrow.names} are not those of an image table")
            columns = file.read(columns=["key", "label"])
            self.keys += columns["key"].to_pylist()
            labels.append(columns["label"].to_numpy())
            for group in range(file.num_row_groups):
                self._groups.append((uri, group))
                self.row_groups.append(file.metadata.row_group(group).num_rows)
        self.labels: NDArray[np.int64] = np.concatenate([*labels, np.empty(0)]).astype(np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self.row_groups, dtype=np.int64)])

    def _clear(self) -> None:
        self._process = os.getpid()
        self._files: dict[str, Any] = {}
        self._cache: OrderedDict[int, Any] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}, "_cache": OrderedDict()}

    def _file(self, uri: str) -> Any:
        if self._process != os.getpid():  # after a fork: file positions would be shared with the parent
            self._clear()
        if uri not in self._files:
            self._files[uri] = open_parquet(uri)
        return self._files[uri]

    def _locate(self, row: int) -> tuple[Any, int]:
        """The row group of a row, and its number in there."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of an image table of {len(self)} rows")
        index = int(np.searchsorted(self._starts, row, side="right")) - 1
        uri, group = self._groups[index]
        file = self._file(uri)
        if index not in self._cache:
            self._cache[index] = table = file.read_row_group(group)
            counters.add(images_read=table.num_rows, bytes_read=table["image"].nbytes)
            if len(self._cache) > self.cached_groups:
                self._cache.popitem(last=False)
        self._cache.move_to_end(index)
        return self._cache[index], row - int(self._starts[index])

    def places(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row groups [n] of rows [n], and their numbers in there."""
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        return groups, rows - self._starts[groups]

    def encoded(self, group: int, offsets: NDArray[np.int64]) -> list[bytes]:
        """Encoded bytes of some rows of a row group, which is read anew and not kept."""
        uri, number = self._groups[group]
        column = self._file(uri).read_row_group(number, columns=["image"])["image"]
        counters.add(images_read=len(column), bytes_read=column.nbytes)
        return [column[offset].as_py() for offset in offsets.tolist()]

    def decoded_bytes(self, limit: int) -> int:
        """Bytes of all images as RGB pixels; counting ends above the limit."""
        total = 0
        for uri in self.uris:
            sizes = self._file(uri).read(columns=["height", "width"])
            total += 3 * int(sizes["height"].to_numpy().astype(np.int64) @ sizes["width"].to_numpy().astype(np.int64))
            if total > limit:
                break
        return total

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[ImageRow]:
        return (self.row(row) for row in range(len(self)))

    def image(self, row: int) -> bytes:
        """Encoded bytes of a row."""
        group, offset = self._locate(row)
        data: bytes = group["image"][offset].as_py()
        return data

    def images(self, start: int, stop: int) -> list[bytes]:
        """Encoded bytes of rows `start` to `stop` - 1."""
        return [self.image(row) for row in range(start, min(stop, len(self)))]

    def row(self, row: int) -> ImageRow:
        """All columns of a row."""
        group, offset = self._locate(row)
        return ImageRow(**{name: group[name][offset].as_py() for name in IMAGE_SCHEMA.names})


def open_parquet(uri: str) -> Any:
    """A Parquet file for reading. Raises `DataError` where it is missing or damaged."""
    try:
        if io.is_local(uri):
            return pq.ParquetFile(io.local_path(uri), memory_map=True)
        return pq.ParquetFile(io.open_read(uri))
    except FileNotFoundError:
        raise DataError(f"{uri}: no such file; run the component that makes it again with --force") from None
    except pa.ArrowInvalid as error:
        raise DataError(f"{uri}: not a whole Parquet file ({error}); run its component again with --force") from error


def digest_line(split: str, key: str, label: int, sha256: str) -> str:
    """The line of one image in the digest; the key is escaped so that no two images share a line."""
    return f"{split}\t{key!r}\t{label}\t{sha256}"


def sorted_table_digest(lines: Iterable[str]) -> str:
    """sha256 over the sorted lines of a table."""
    total = hashlib.sha256()
    for line in lines:
        total.update(line.encode() + b"\n")
    return total.hexdigest()


def image_digest(tables: Mapping[str, ImageTable]) -> str:
    """The digest of tables by split: independent of shards, order and file layout."""
    lines = [
        digest_line(split, row.key, row.label, hashlib.sha256(row.image).hexdigest())
        for split, table in tables.items()
        for row in table
    ]
    return sorted_table_digest(sorted(lines))
