"""One decoded copy of a code table per host: built once, named by its content, memory-mapped by every process.

Parquet's pages are compressed and cannot be mapped: the first process decodes them, one row group at a time, into plain
arrays in a cache folder; the others wait for it. Memory does not grow with the table.
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
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vim_core.data.code_files import CodeFile, CodeMeta, check_meta, code_type, open_code_file, read_meta, read_rows
from vim_core.errors import DataError, StorageError
from vim_core.storage import io

LAYOUT = 1
"""Version of the cached files; a table of another version is decoded again under another name."""

INDEX = "index.json"
STALE_SECONDS = 30 * 24 * 3600.0
"""Tables that no process opened for this long are removed when another one is built."""

BYTES_BESIDE_CODES = 64
"""Estimated bytes of a row's key, label and view, to check the free space of the disk."""

CODES = "codes"
COLUMNS = {"labels": ("<i8", "c"), "view": ("<i4", "c"), "ends": ("<i8", "r"), "text": ("u1", "r")}
"""Files beside the codes: dtype and mode of the mapping. `ends` are the ends of each key in `text`; labels and views
are mapped copy-on-write."""

log = logging.getLogger(__name__)


def cache_folder(cache: str) -> Path:
    """`cache` as an absolute path; if empty, `vim/codes` in the user's cache folder."""
    if cache:
        return Path(cache).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vim" / "codes"


def decoded_table(files: Sequence[CodeFile], cache: str = "") -> Path:
    """The folder of the decoded table; the first process that asks builds it.

    Raises:
        DataError: see `code_files`; or the files are parts of different tables.
        LineageError: the files come from different tokenizers.
        StorageError: the cache folder cannot be used or is full.
    """
    folder = cache_folder(cache) / _content_name(files)
    if _is_complete(folder):
        with contextlib.suppress(PermissionError):  # another user's folder
            os.utime(folder / INDEX)
        return folder
    with _named_errors(folder.parent), io.locked(folder.with_name(f"{folder.name}.lock")):
        if not _is_complete(folder):
            for index in folder.parent.glob(f"*/{INDEX}"):
                # Processes that have a stale table mapped keep it.
                if time.time() - index.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(index.parent, ignore_errors=True)
            _build(files, folder)
    return folder


def read_index(folder: Path) -> tuple[CodeMeta, int]:
    """The table's metadata and number of rows."""
    record = json.loads((folder / INDEX).read_text())
    meta = record["meta"]
    return CodeMeta(**{**meta, "grid": tuple(meta["grid"])}), int(record["rows"])


def map_columns(folder: Path, meta: CodeMeta) -> dict[str, NDArray[Any]]:
    """Memory-mapped arrays of the cached files by column; codes are [N, T], the others [N] but for `text`."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, (dtype, mode) in {CODES: (_code_dtype(meta), "r"), **COLUMNS}.items():
        path = folder / name
        empty = not path.stat().st_size  # cannot be mapped
        arrays[name] = np.empty(0, dtype) if empty else np.asarray(np.memmap(path, dtype, mode))  # type: ignore[call-overload]
    return arrays | {CODES: arrays[CODES].reshape(-1, meta.tokens)}


def _code_dtype(meta: CodeMeta) -> str:
    return "<u2" if code_type(meta.vocabulary).bit_width == 16 else "<u4"


def _content_name(files: Sequence[CodeFile]) -> str:
    """A hash of the files' checksums; of address and version where there is no manifest."""
    lines = [str(LAYOUT)]
    for file in files:
        version = "" if file.sha256 else io.version(file.uri)
        if not file.sha256 and not version:
            raise DataError(f"{file.uri}: no such file; run the component that makes it again with --force")
        lines.append(file.sha256 or f"{file.uri} {version}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def _is_complete(folder: Path) -> bool:
    """True if the table was built to its end and its files have their sizes."""
    try:
        record = json.loads((folder / INDEX).read_text())
        return all((folder / name).stat().st_size == size for name, size in record["sizes"].items())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def _build(files: Sequence[CodeFile], folder: Path) -> None:
    """Decode into a folder beside it, which is renamed once everything is on the disk."""
    began, rows = time.monotonic(), 0
    partial = folder.with_name(f"{folder.name}.partial")
    for leftover in (partial, folder):  # of a killed process, or damaged
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    meta: CodeMeta | None = None
    with contextlib.ExitStack() as stack:
        streams = {name: stack.enter_context(open(partial / name, "xb")) for name in (CODES, *COLUMNS)}
        for file in files:
            with open_code_file(file) as parquet:
                file_meta = read_meta(parquet, file.uri)
                meta = meta or file_meta
                check_meta(file.uri, file_meta, meta.tokenizer, meta.grid, meta.vocabulary)
                if file_meta != meta:
                    first = files[0].uri
                    raise DataError(
                        f"{file.uri}: split, views or augmentation differ from {first}: they are two tables"
                    )
                _check_space(partial, parquet.metadata.num_rows, meta)
                for part in read_rows(file, parquet, meta):
                    arrays = {CODES: part.codes.astype(_code_dtype(meta), copy=False)}
                    arrays |= {"labels": part.labels, "view": part.views}
                    arrays["ends"] = (streams["text"].tell() + np.cumsum(part.key_lengths)).astype("<i8")
                    for name, array in arrays.items():
                        streams[name].write(np.ascontiguousarray(array).data)
                    streams["text"].write(part.key_text)
                    rows += len(part.codes)
        for stream in streams.values():
            stream.flush()
            os.fsync(stream.fileno())
    assert meta is not None
    sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
    _write_synced(partial / INDEX, json.dumps({"meta": asdict(meta), "rows": rows, "sizes": sizes}))
    partial.rename(folder)
    log.info("decoded a code table of %d rows in %.1f s into %s", rows, time.monotonic() - began, folder)


def _write_synced(path: Path, text: str) -> None:
    with open(path, "x", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _check_space(folder: Path, rows: int, meta: CodeMeta) -> None:
    needed = rows * (meta.tokens * np.dtype(_code_dtype(meta)).itemsize + BYTES_BESIDE_CODES)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"{folder.parent}: {free >> 20} MB free, and the next file of the code table takes {needed >> 20} MB "
            "decoded; free some space or name another folder by run.code_cache"
        )


@contextlib.contextmanager
def _named_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the cache folder into `StorageError`s that name the setting; errors of other files pass."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full and not str(error.filename or "").startswith(str(folder)):
            raise
        reason = "the disk is full" if full else f"cannot be written ({error})"
        raise StorageError(f"{folder}: {reason}; name another folder for code tables by run.code_cache") from error
