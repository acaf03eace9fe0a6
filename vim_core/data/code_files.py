"""Code files: Parquet of (key, label, view, codes) that says which tokenizer made it; writing, and what it says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vim_core.errors import DataError, LineageError
from vim_core.storage import io

SCHEMA_VERSION = 1
METADATA = b"vim.codes"
ROW_GROUP = 8192


@dataclass(frozen=True)
class CodeMeta:
    """What a code table says of itself.

    `grid` is (height, width) in codes, `tokenizer` the digest of the artifact that made them, `augmentation` one
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
    """A code file and what its manifest says of it; whatever is not '' or None is checked when the file is read.

    `tokenizer` is the digest of the tokenizer that the reader expects the codes to come from.
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
    """Write codes [N, T] sorted by key and view and give N; equal rows give equal bytes.

    Raises:
        DataError: the codes do not fit the grid or lie outside the vocabulary, or a (key, view) occurs twice.
    """
    codes, views = np.asarray(codes), np.asarray(views)
    if codes.shape != (len(keys), meta.tokens):
        raise DataError(f"{uri}: codes of shape {codes.shape}, expected {(len(keys), meta.tokens)}")
    if codes.size and (codes.min() < 0 or codes.max() >= meta.vocabulary):
        raise DataError(f"{uri}: codes {codes.min()} to {codes.max()} outside a vocabulary of {meta.vocabulary}")
    names = sorted(range(len(keys)), key=lambda row: (keys[row], int(views[row])))
    for first, second in pairwise(names):
        if (keys[first], views[first]) == (keys[second], views[second]):
            raise DataError(f"{uri}: view {views[first]} of {keys[first]!r} occurs twice")
    order = np.array(names, dtype=np.int64)
    kind = code_type(meta.vocabulary)
    flat = pa.array(codes[order].astype(kind.to_pandas_dtype()).reshape(-1), kind)
    columns = [
        pa.array([keys[row] for row in names], pa.string()),
        pa.array(np.asarray(labels)[order].astype(np.int32), pa.int32()),
        pa.array(views[order].astype(np.int32), pa.int32()),
        pa.FixedSizeListArray.from_arrays(flat, meta.tokens),
    ]
    table = pa.Table.from_arrays(columns, schema=code_schema(meta))
    with io.staged(uri) as path:
        pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP, use_dictionary=False)
    return len(names)


def read_meta(file: Any, uri: str) -> CodeMeta:
    """What an open Parquet file says of itself.

    Raises:
        DataError: it is no code table, one of another schema version, or its columns are not as it says.
    """
    found = (file.schema_arrow.metadata or {}).get(METADATA)
    if found is None:
        raise DataError(f"{uri}: not a code table (no {METADATA.decode()} metadata)")
    record = json.loads(found)
    if record.get("schema_version") != SCHEMA_VERSION:
        version = record.get("schema_version")
        raise DataError(f"{uri}: code table of schema version {version!r}, this version reads {SCHEMA_VERSION}")
    meta = CodeMeta(**{**record, "grid": tuple(record["grid"])})
    if not file.schema_arrow.equals(code_schema(meta), check_metadata=False):
        raise DataError(f"{uri}: columns {file.schema_arrow.types} do not fit the table's own metadata {record}")
    return meta


def check_meta(uri: str, meta: CodeMeta, tokenizer: str, grid: tuple[int, int] | None, vocabulary: int | None) -> None:
    """Raise `LineageError` for codes of another tokenizer, `DataError` for another grid or vocabulary."""
    if meta.tokenizer != tokenizer:
        made, wanted = meta.tokenizer[:12], tokenizer[:12]
        raise LineageError(f"{uri}: codes of tokenizer {made}, expected {wanted}: run tokenize with this tokenizer")
    if grid is not None and meta.grid != tuple(grid):
        raise DataError(f"{uri}: grid {meta.grid}, expected {tuple(grid)}: run tokenize again")
    if vocabulary is not None and meta.vocabulary != vocabulary:
        raise DataError(f"{uri}: vocabulary {meta.vocabulary}, expected {vocabulary}: run tokenize again")
