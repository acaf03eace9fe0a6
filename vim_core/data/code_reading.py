"""Reading code files part by part: every part is checked against the file's own header and its manifest."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vim_core.data.code_files import CodeFile, CodeMeta
from vim_core.errors import DataError
from vim_core.storage import io

AGAIN = "run tokenize again with --force"


@dataclass(frozen=True)
class CodeRows:
    """Some rows of a table: codes [n, T], labels int64 [n], view int32 [n], and the keys as one text with lengths."""

    codes: NDArray[Any]
    labels: NDArray[np.int64]
    view: NDArray[np.int32]
    lengths: NDArray[np.int64]
    text: bytes


@contextlib.contextmanager
def open_code_file(file: CodeFile) -> Iterator[Any]:
    """The file as Parquet, its bytes checked first; a remote one is downloaded for the time being.

    Raises:
        DataError: it is missing, damaged, or not what the manifest says.
    """
    try:
        with io.local_copy(file.uri) as path:
            _check_bytes(file, path)
            parquet = _parquet(file.uri, path)
            if file.rows is not None and parquet.metadata.num_rows != file.rows:
                raise DataError(f"{file.uri}: {parquet.metadata.num_rows} rows, manifest says {file.rows}; {AGAIN}")
            yield parquet
    except FileNotFoundError:
        raise DataError(f"{file.uri}: no such file; run the component that makes it again with --force") from None


def read_parts(file: CodeFile, parquet: Any, meta: CodeMeta) -> Iterator[CodeRows]:
    """Row group by row group, so that memory holds one of them.

    Raises:
        DataError: a page is damaged; a code, view or label lies outside its range; rows are out of order.
    """
    last: Any = None
    for group in range(parquet.num_row_groups):
        try:
            table = parquet.read_row_group(group).combine_chunks()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file.uri}: row group {group} cannot be read ({error}); {AGAIN}") from error
        if not len(table):
            continue
        last = _check_order(file.uri, table, last)
        yield _part(file.uri, table, meta)


def _parquet(uri: str, path: str) -> Any:
    try:
        return pq.ParquetFile(path, memory_map=True)
    except pa.ArrowInvalid as error:
        raise DataError(f"{uri}: not a whole Parquet file ({error}); {AGAIN}") from error


def _check_bytes(file: CodeFile, path: str) -> None:
    size = os.path.getsize(path)
    if file.bytes is not None and size != file.bytes:
        raise DataError(f"{file.uri}: {size} bytes, manifest says {file.bytes}; {AGAIN}")
    if not file.sha256:
        return
    sha256 = io.checksum(path)[1]
    if sha256 != file.sha256:
        raise DataError(f"{file.uri}: sha256 {sha256[:12]}…, manifest says {file.sha256[:12]}…: changed since; {AGAIN}")


def _check_order(uri: str, table: Any, last: Any) -> Any:
    """Rows must ascend by (key, view); returns the last row's, for the next row group."""
    keys, view = table["key"].chunk(0), table["view"].chunk(0)
    before, after = slice(None, -1), slice(1, None)
    steps = pc.or_(
        pc.less(keys[before], keys[after]),
        pc.and_(pc.equal(keys[before], keys[after]), pc.less(view[before], view[after])),
    )
    first, end = (keys[0].as_py(), view[0].as_py()), (keys[-1].as_py(), view[-1].as_py())
    if not pc.all(steps, min_count=0).as_py() or (last is not None and first <= last):
        raise DataError(f"{uri}: rows are not in the order of key and view, each once; {AGAIN}")
    return end


def _part(uri: str, table: Any, meta: CodeMeta) -> CodeRows:
    keys = table["key"].chunk(0)
    codes = table["codes"].chunk(0).flatten().to_numpy().reshape(len(table), meta.tokens)
    labels, view = table["label"].to_numpy(), table["view"].to_numpy()
    _check_range(uri, "codes", codes, 0, meta.vocabulary)
    _check_range(uri, "views", view, 0, meta.views)
    _check_range(uri, "labels", labels, -1, 1 << 31)
    lengths = pc.binary_length(keys).to_numpy().astype(np.int64)
    text = "".join(keys.to_pylist()).encode()
    return CodeRows(codes, labels.astype(np.int64), view.astype(np.int32), lengths, text)


def _check_range(uri: str, what: str, values: NDArray[Any], low: int, high: int) -> None:
    if values.size and (int(values.min()) < low or int(values.max()) >= high):
        found = f"{what} {values.min()} to {values.max()}"
        raise DataError(f"{uri}: {found}, outside {low} to {high - 1}; {AGAIN}")
