"""Code files: Parquet of (key, label, view, codes), with the tokenizer's digest as metadata."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vim_core.errors import DataError, LineageError
from vim_core.storage import io

SCHEMA_VERSION = 1
METADATA = b"vim.codes"
ROW_GROUP = 8192
REMEDY = "run tokenize again with --force"


@dataclass(frozen=True)
class CodeMeta:
    """The metadata of a code table.

    `grid` is (height, width) in codes, `tokenizer` the digest of the artifact that made the codes, `augmentation` one
    record of settings per view (empty for the plain view 0).
    """

    split: str
    grid: tuple[int, int]
    vocabulary: int
    tokenizer: str
    views: int = 1
    augmentation: list[dict[str, Any]] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION

    @property
    def tokens(self) -> int:
        """Codes per image."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class CodeFile:
    """The address of a code file and its manifest's entries; each that is not '' or None is checked when it is read.

    `tokenizer` is the digest of the tokenizer that the codes must come from.
    """

    uri: str
    bytes: int | None = None
    sha256: str = ""
    rows: int | None = None
    tokenizer: str = ""


def code_type(vocabulary: int) -> Any:
    """The Arrow type of one code."""
    return pa.uint16() if vocabulary <= 65_536 else pa.uint32()


def code_schema(meta: CodeMeta) -> Any:
    """The Arrow schema of a code table, with its metadata."""
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("label", pa.int32(), nullable=False),
            pa.field("view", pa.int32(), nullable=False),
            pa.field("codes", pa.list_(pa.field("item", code_type(meta.vocabulary)), meta.tokens), nullable=False),
        ],
        metadata={METADATA: json.dumps(asdict(meta), sort_keys=True).encode()},
    )


def write_codes(
    uri: str, keys: Sequence[str], labels: NDArray[Any], views: NDArray[Any], codes: NDArray[Any], meta: CodeMeta
) -> int:
    """Write codes [N, T] sorted by key and view; returns N. Equal rows give equal bytes.

    Raises:
        DataError: the codes do not fit the grid or lie outside the vocabulary, or a (key, view) occurs twice.
    """
    codes, views = np.asarray(codes), np.asarray(views)
    if codes.shape != (len(keys), meta.tokens):
        raise DataError(f"{uri}: codes of shape {codes.shape}, expected {(len(keys), meta.tokens)}")
    if codes.size and (codes.min() < 0 or codes.max() >= meta.vocabulary):
        raise DataError(f"{uri}: codes {codes.min()} to {codes.max()} outside a vocabulary of {meta.vocabulary}")
    rows = sorted(range(len(keys)), key=lambda row: (keys[row], int(views[row])))
    for first, second in pairwise(rows):
        if (keys[first], views[first]) == (keys[second], views[second]):
            raise DataError(f"{uri}: view {views[first]} of {keys[first]!r} occurs twice")
    order = np.array(rows, dtype=np.int64)
    kind = code_type(meta.vocabulary)
    flat = pa.array(codes[order].astype(kind.to_pandas_dtype()).reshape(-1), kind)
    columns = [
        pa.array([keys[row] for row in rows], pa.string()),
        pa.array(np.asarray(labels)[order].astype(np.int32), pa.int32()),
        pa.array(views[order].astype(np.int32), pa.int32()),
        pa.FixedSizeListArray.from_arrays(flat, meta.tokens),
    ]
    table = pa.Table.from_arrays(columns, schema=code_schema(meta))
    with io.staged(uri) as path:
        pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP, use_dictionary=False)
    return len(rows)


@contextlib.contextmanager
def open_code_file(file: CodeFile) -> Iterator[Any]:
    """The file as Parquet, its bytes checked against the manifest first; a remote one is downloaded temporarily.

    Raises:
        DataError: it is missing, damaged, or not the one in the manifest.
    """
    try:
        with io.local_copy(file.uri) as path:
            size = os.path.getsize(path)
            if file.bytes is not None and size != file.bytes:
                raise DataError(f"{file.uri}: {size} bytes, manifest says {file.bytes}; {REMEDY}")
            if file.sha256 and (digest := io.checksum(path)[1]) != file.sha256:
                expected = file.sha256[:12]
                raise DataError(
                    f"{file.uri}: sha256 {digest[:12]}…, manifest says {expected}…: changed since; {REMEDY}"
                )
            try:
                parquet = pq.ParquetFile(path, memory_map=True)
            except pa.ArrowInvalid as error:
                raise DataError(f"{file.uri}: not a whole Parquet file ({error}); {REMEDY}") from error
            if file.rows is not None and parquet.metadata.num_rows != file.rows:
                raise DataError(f"{file.uri}: {parquet.metadata.num_rows} rows, manifest says {file.rows}; {REMEDY}")
            yield parquet
    except FileNotFoundError:
        raise DataError(f"{file.uri}: no such file; run the component that makes it again with --force") from None


def read_meta(parquet: Any, uri: str) -> CodeMeta:
    """The metadata of an open code file.

    Raises:
        DataError: it is no code table, one of another schema version, or its columns do not fit its metadata.
    """
    data = (parquet.schema_arrow.metadata or {}).get(METADATA)
    if data is None:
        raise DataError(f"{uri}: not a code table (no {METADATA.decode()} metadata)")
    record = json.loads(data)
    if record.get("schema_version") != SCHEMA_VERSION:
        version = record.get("schema_version")
        raise DataError(f"{uri}: code table of schema version {version!r}, this version reads {SCHEMA_VERSION}")
    meta = CodeMeta(**{**record, "grid": tuple(record["grid"])})
    if not parquet.schema_arrow.equals(code_schema(meta), check_metadata=False):
        raise DataError(f"{uri}: columns {parquet.schema_arrow.types} do not fit the table's own metadata {record}")
    return meta


def check_meta(uri: str, meta: CodeMeta, tokenizer: str, grid: tuple[int, int] | None, vocabulary: int | None) -> None:
    """Raise `LineageError` for codes of another tokenizer, `DataError` for another grid or vocabulary."""
    if meta.tokenizer != tokenizer:
        actual, expected = meta.tokenizer[:12], tokenizer[:12]
        raise LineageError(f"{uri}: codes of tokenizer {actual}, expected {expected}: run tokenize with this tokenizer")
    if grid is not None and meta.grid != tuple(grid):
        raise DataError(f"{uri}: grid {meta.grid}, expected {tuple(grid)}: run tokenize again")
    if vocabulary is not None and meta.vocabulary != vocabulary:
        raise DataError(f"{uri}: vocabulary {meta.vocabulary}, expected {vocabulary}: run tokenize again")


def read_rows(
    file: CodeFile, parquet: Any, meta: CodeMeta
) -> Iterator[tuple[dict[str, NDArray[Any]], NDArray[np.int64], bytes]]:
    """The rows of an open code file, one row group at a time, so that memory does not grow with the file.

    Each time the arrays `codes` [n, T], `labels` int64 [n] and `view` int32 [n], and the keys: lengths [n], one text.

    Raises:
        DataError: a page is damaged; a code, view or label is outside its range; rows are out of order.
    """
    last: Any = None
    for group in range(parquet.num_row_groups):
        try:
            table = parquet.read_row_group(group).combine_chunks()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file.uri}: row group {group} cannot be read ({error}); {REMEDY}") from error
        if not len(table):
            continue
        keys, views = table["key"].chunk(0), table["view"].chunk(0)
        before, after = slice(None, -1), slice(1, None)
        ascending = pc.or_(
            pc.less(keys[before], keys[after]),
            pc.and_(pc.equal(keys[before], keys[after]), pc.less(views[before], views[after])),
        )
        first = keys[0].as_py(), views[0].as_py()
        if not pc.all(ascending, min_count=0).as_py() or (last is not None and first <= last):
            raise DataError(f"{file.uri}: rows are not in the order of key and view, each once; {REMEDY}")
        last = keys[-1].as_py(), views[-1].as_py()
        codes = table["codes"].chunk(0).flatten().to_numpy().reshape(len(table), meta.tokens)
        labels, views = table["label"].to_numpy(), views.to_numpy()
        _check_range(file.uri, "codes", codes, 0, meta.vocabulary)
        _check_range(file.uri, "views", views, 0, meta.views)
        _check_range(file.uri, "labels", labels, -1, 1 << 31)
        lengths = pc.binary_length(keys).to_numpy().astype(np.int64)
        text = "".join(keys.to_pylist()).encode()
        yield {"codes": codes, "labels": labels.astype(np.int64), "view": views.astype(np.int32)}, lengths, text


def _check_range(uri: str, column: str, values: NDArray[Any], low: int, high: int) -> None:
    if values.size and (int(values.min()) < low or int(values.max()) >= high):
        raise DataError(f"{uri}: {column} {values.min()} to {values.max()}, outside {low} to {high - 1}; {REMEDY}")
