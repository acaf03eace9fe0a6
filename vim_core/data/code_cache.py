"""One decoded copy of a code table per host: built once, named by its content, mapped by every process that reads it.

Parquet's pages are compressed, so they cannot be mapped themselves: the first process decodes them part by part into
plain arrays in a cache folder, the others wait for it. Memory does not grow with the table.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vim_core.data.code_files import CodeFile, CodeMeta, check_meta, code_type, read_meta
from vim_core.data.code_reading import open_code_file, read_parts
from vim_core.errors import DataError, StorageError
from vim_core.storage import io

LAYOUT = 1
"""Version of the cached files; others are built anew beside them."""

INDEX = "index.json"
STALE_SECONDS = 30 * 24 * 3600.0
"""Tables that nothing opened for so long are removed when another one is built."""

ROOM = 64
"""Bytes of a row beside its codes (key, label, view), to ask for enough space on the disk."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Column:
    """One cached file: plain values of one type."""

    name: str
    dtype: str
    mode: str = "r"


CODES = "codes"
COLUMNS = (Column("labels", "<i8", "c"), Column("view", "<i4", "c"), Column("ends", "<i8"), Column("text", "u1"))
"""Beside the codes. `ends` says where each key ends in `text`; labels and views may be written to, privately."""


def cache_folder(cache: str) -> Path:
    """The cache folder: the one given, else `vim/codes` in the user's cache folder."""
    if cache:
        return Path(cache).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vim" / "codes"


def decoded_table(files: Sequence[CodeFile], cache: str = "") -> Path:
    """The folder of the decoded table, which is built by the first process that asks.

    Raises:
        DataError: see `code_reading`; the files are parts of different tables.
        LineageError: the files come from different tokenizers.
        StorageError: the cache folder cannot be used or is full.
    """
    folder = cache_folder(cache) / _name(files)
    if _whole(folder):
        with contextlib.suppress(PermissionError):  # somebody else's folder
            os.utime(folder / INDEX)
        return folder
    with _usable(folder.parent), io.locked(folder.with_name(f"{folder.name}.lock")):
        if not _whole(folder):
            _sweep(folder.parent)
            _build(files, folder)
    return folder


def read_index(folder: Path) -> tuple[CodeMeta, int]:
    """What the table says of itself, and its rows."""
    record = json.loads((folder / INDEX).read_text())
    meta = record["meta"]
    return CodeMeta(**{**meta, "grid": tuple(meta["grid"])}), int(record["rows"])


def map_columns(folder: Path, meta: CodeMeta) -> dict[str, NDArray[Any]]:
    """Arrays over the cached files, by column; codes are [N, T]."""
    columns = {column.name: _map(folder / column.name, column.dtype, column.mode) for column in COLUMNS}
    return columns | {CODES: _map(folder / CODES, _code_dtype(meta), "r").reshape(-1, meta.tokens)}


def _map(path: Path, dtype: str, mode: Any) -> NDArray[Any]:
    if not path.stat().st_size:  # nothing to map
        return np.empty(0, dtype)
    return np.asarray(np.memmap(path, dtype, mode))


def _code_dtype(meta: CodeMeta) -> str:
    return "<u2" if code_type(meta.vocabulary).bit_width == 16 else "<u4"


def _name(files: Sequence[CodeFile]) -> str:
    """A name that the content alone decides where a manifest gives checksums, else also place, size and time."""
    return hashlib.sha256("\n".join([str(LAYOUT), *map(_identity, files)]).encode()).hexdigest()[:32]


def _identity(file: CodeFile) -> str:
    if file.sha256:
        return file.sha256
    fs, path = io.filesystem(file.uri)
    fs.invalidate_cache()
    try:
        return f"{file.uri} {fs.ukey(path)}"
    except FileNotFoundError:
        raise DataError(f"{file.uri}: no such file; run the component that makes it again with --force") from None


def _whole(folder: Path) -> bool:
    """Whether the table was built to its end and nobody cut its files."""
    try:
        record = json.loads((folder / INDEX).read_text())
        return all((folder / name).stat().st_size == size for name, size in record["sizes"].items())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def _build(files: Sequence[CodeFile], folder: Path) -> None:
    """Decode into a folder beside it, which is renamed when everything lies on the disk."""
    began = time.monotonic()
    partial = folder.with_name(f"{folder.name}.partial")
    for left in (partial, folder):  # what a killed process left, or somebody damaged
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir()
    meta: CodeMeta | None = None
    rows = 0
    with _columns(partial) as streams:
        for file in files:
            with open_code_file(file) as parquet:
                meta = _same_table(meta, read_meta(parquet, file.uri), file.uri, files[0].uri)
                _check_room(partial, parquet.metadata.num_rows, meta)
                for part in read_parts(file, parquet, meta):
                    _append(streams, part, meta)
                    rows += len(part.codes)
    assert meta is not None
    sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
    _write_synced(partial / INDEX, json.dumps({"meta": asdict(meta), "rows": rows, "sizes": sizes}))
    partial.rename(folder)
    log.info("decoded a code table of %d rows in %.1f s into %s", rows, time.monotonic() - began, folder)


def _same_table(meta: CodeMeta | None, found: CodeMeta, uri: str, first: str) -> CodeMeta:
    if meta is None:
        return found
    check_meta(uri, found, meta.tokenizer, meta.grid, meta.vocabulary)
    if found != meta:
        raise DataError(f"{uri}: split, views or augmentation differ from {first}: they are two tables")
    return meta


@contextlib.contextmanager
def _columns(folder: Path) -> Iterator[Mapping[str, IO[bytes]]]:
    with contextlib.ExitStack() as stack:
        names = [CODES, *(column.name for column in COLUMNS)]
        streams = {name: stack.enter_context(open(folder / name, "xb")) for name in names}
        yield streams
        for stream in streams.values():
            stream.flush()
            os.fsync(stream.fileno())


def _append(streams: Mapping[str, IO[bytes]], part: Any, meta: CodeMeta) -> None:
    ends = streams["text"].tell() + np.cumsum(part.lengths)
    values = {CODES: part.codes.astype(_code_dtype(meta), copy=False), "labels": part.labels, "view": part.view}
    for name, array in {**values, "ends": ends.astype("<i8")}.items():
        streams[name].write(np.ascontiguousarray(array).data)
    streams["text"].write(part.text)


def _write_synced(path: Path, text: str) -> None:
    with open(path, "x", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _check_room(folder: Path, rows: int, meta: CodeMeta) -> None:
    needed = rows * (meta.tokens * np.dtype(_code_dtype(meta)).itemsize + ROOM)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"{folder.parent}: {free >> 20} MB free, and the next file of the code table takes {needed >> 20} MB "
            "decoded; free some space or name another folder by run.code_cache"
        )


def _sweep(base: Path) -> None:
    """Remove tables that nothing opened for long; whoever has one mapped keeps it."""
    for index in base.glob(f"*/{INDEX}"):
        if time.time() - index.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(index.parent, ignore_errors=True)


@contextlib.contextmanager
def _usable(base: Path) -> Iterator[None]:
    """Name the setting where the cache folder itself fails; errors of the files' own store stay what they are."""
    try:
        base.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full and not str(error.filename or "").startswith(str(base)):
            raise
        reason = "the disk is full" if full else f"cannot be written ({error})"
        raise StorageError(f"{base}: {reason}; name another folder for code tables by run.code_cache") from error
