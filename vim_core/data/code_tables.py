"""Code tables: the code files of a split as one table that is read from the disk by row, whatever its size.

Parquet's pages are compressed and cannot be mapped: the first process of a host that opens a table decodes them, one
row group at a time, into plain arrays in a cache folder named by the content; the others wait for it and map them.
Memory does not grow with the table.
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
from typing import Any, overload

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

BLOCK = 1 << 14
"""Keys whose ends are read at once when iterating."""

log = logging.getLogger(__name__)


class Keys(Sequence[str]):
    """The image keys of all rows, decoded from the mapped text on access."""

    def __init__(self, ends: NDArray[np.int64], text: NDArray[np.uint8]) -> None:
        self._ends, self._text = ends, text

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[index] for index in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        return self._decode(int(self._ends[row - 1]) if row else 0, int(self._ends[row]))

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), BLOCK):
            start = int(self._ends[first - 1]) if first else 0
            for end in self._ends[first : first + BLOCK].tolist():
                yield self._decode(start, end)
                start = end

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def _decode(self, start: int, end: int) -> str:
        return self._text[start:end].tobytes().decode()


class CodeTable:
    """One or more code files of a split as one table, in the given order.

    The first process of a host that opens a table decodes it into the cache folder, where every file is checked against
    its metadata and, for `CodeFile`s, its manifest; all processes map that copy. Pickling transfers only the addresses.

    Attributes: `codes` uint16 [N, T] (uint32 above 65,536 codes; read only), `keys`, `labels` int64 [N] (-1 for none),
    `view` int32 [N] and `meta`.

    Args:
        files: addresses, or `CodeFile`s with the manifest's entries.
        cache: folder of decoded tables; '' for the user's cache folder.

    Raises:
        DataError: no file, a missing or damaged one, one that differs from its manifest, one of another schema version,
            or files of different shape.
        LineageError: the files come from different tokenizers, or not from the expected one.
        StorageError: the cache folder cannot be used or is full.
    """

    def __init__(self, files: Sequence[str | CodeFile], cache: str = "") -> None:
        if not files:
            raise DataError("a code table without files: the split is missing, run tokenize again")
        code_files = [CodeFile(file) if isinstance(file, str) else file for file in files]
        self._arguments = code_files, cache
        folder = _decoded_table(code_files, cache)
        record = json.loads((folder / INDEX).read_text())
        self.meta = CodeMeta(**{**record["meta"], "grid": tuple(record["meta"]["grid"])})
        for file in code_files:
            if file.tokenizer:
                check_meta(file.uri, self.meta, file.tokenizer, None, None)
        columns: dict[str, NDArray[Any]] = {}
        for name, (dtype, mode) in {CODES: (_code_dtype(self.meta), "r"), **COLUMNS}.items():
            path = folder / name
            empty = not path.stat().st_size  # cannot be mapped
            columns[name] = np.empty(0, dtype) if empty else np.asarray(np.memmap(path, dtype, mode))  # type: ignore[call-overload]
        self.codes: NDArray[Any] = columns[CODES].reshape(-1, self.meta.tokens)
        self.labels: NDArray[np.int64] = columns["labels"]
        self.view: NDArray[np.int32] = columns["view"]
        self.keys = Keys(columns["ends"], columns["text"])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments

    def __len__(self) -> int:
        return len(self.labels)

    def check(self, tokenizer: str, grid: tuple[int, int] | None = None, vocabulary: int | None = None) -> None:
        """Raise `LineageError` for codes of another tokenizer, `DataError` for another grid or vocabulary."""
        check_meta("code table", self.meta, tokenizer, grid, vocabulary)


def _decoded_table(files: Sequence[CodeFile], cache: str) -> Path:
    """The folder of the decoded table, which the first process that asks builds; raises as `CodeTable`."""
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parent = Path(cache).expanduser().absolute() if cache else user_cache / "vim" / "codes"
    # Named by the files' checksums; by address and version where there is no manifest.
    lines = [str(LAYOUT)]
    for file in files:
        version = "" if file.sha256 else io.version(file.uri)
        if not file.sha256 and not version:
            raise DataError(f"{file.uri}: no such file; run the component that makes it again with --force")
        lines.append(file.sha256 or f"{file.uri} {version}")
    folder = parent / hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]
    if _is_complete(folder):
        with contextlib.suppress(PermissionError):  # another user's folder
            os.utime(folder / INDEX)
        return folder
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with io.locked(folder.with_name(f"{folder.name}.lock")):
            if not _is_complete(folder):
                for index in parent.glob(f"*/{INDEX}"):
                    # Processes that have a stale table mapped keep it.
                    if time.time() - index.stat().st_mtime > STALE_SECONDS:
                        shutil.rmtree(index.parent, ignore_errors=True)
                _build(files, folder)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full and not str(error.filename or "").startswith(str(parent)):
            raise  # of another file than the cache folder's
        reason = "the disk is full" if full else f"cannot be written ({error})"
        raise StorageError(f"{parent}: {reason}; name another folder for code tables by run.code_cache") from error
    return folder


def _code_dtype(meta: CodeMeta) -> str:
    return "<u2" if code_type(meta.vocabulary).bit_width == 16 else "<u4"


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
                row_bytes = meta.tokens * np.dtype(_code_dtype(meta)).itemsize + BYTES_BESIDE_CODES
                needed, free = parquet.metadata.num_rows * row_bytes, shutil.disk_usage(partial).free
                if needed > free:
                    raise StorageError(
                        f"{folder.parent}: {free >> 20} MB free, and the next file of the code table takes "
                        f"{needed >> 20} MB decoded; free some space or name another folder by run.code_cache"
                    )
                for arrays, lengths, text in read_rows(file, parquet, meta):
                    arrays[CODES] = arrays[CODES].astype(_code_dtype(meta), copy=False)
                    arrays["ends"] = (streams["text"].tell() + np.cumsum(lengths)).astype("<i8")
                    for name, array in arrays.items():
                        streams[name].write(np.ascontiguousarray(array).data)
                    streams["text"].write(text)
                    rows += len(lengths)
        for stream in streams.values():
            stream.flush()
            os.fsync(stream.fileno())
    assert meta is not None
    sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
    with open(partial / INDEX, "x", encoding="utf-8") as index:
        index.write(json.dumps({"meta": asdict(meta), "rows": rows, "sizes": sizes}))
        index.flush()
        os.fsync(index.fileno())
    partial.rename(folder)
    log.info("decoded a code table of %d rows in %.1f s into %s", rows, time.monotonic() - began, folder)
