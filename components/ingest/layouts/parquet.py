"""Hugging Face style Parquet: a struct `image` of bytes and path, a whole number `label`, class names in the metadata.

A row of Parquet cannot be read alone: its page is compressed with its neighbours, and shards take rows from everywhere.
So each file is unpacked once into a file of bare bytes in the work folder, and its images point into that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from components.ingest.layouts.base import ScanContext, SourcePart, SourceParts, file_parts, unpacked_name, unreadable
from components.ingest.source_images import NO_LABEL, SourceImage, with_key
from vim_core.data import folders
from vim_core.errors import DataError
from vim_core.storage import io

ROWS = 16
"""Rows that are held in memory."""

LABELS = ("label", "labels", "cls")
METADATA = b"huggingface"


def find_parts(context: ScanContext) -> SourceParts:
    """One part a file, and the class names in the files' metadata. Raises `DataError` for a missing source."""
    from vim_core.data.image_tables import open_parquet

    source = context.config.source
    parts = file_parts(context.config, (e for e in folders.list_files(source) if e.path.endswith(".parquet")))
    if parts.parts:
        schema = open_parquet(io.join(source, parts.parts[0].path)).schema_arrow
        try:
            features = json.loads((schema.metadata or {})[METADATA])["info"]["features"]
            parts.classes = tuple(next(features[name]["names"] for name in LABELS if "names" in features.get(name, {})))
        except (KeyError, ValueError, TypeError, StopIteration):
            pass  # no class names: labels stay numbers
    return parts


def scan_part(context: ScanContext, part: SourcePart) -> Iterator[SourceImage]:
    """Every row of a file, its bytes unpacked on the way."""
    labelled, name = context.config.labelled, unpacked_name(part)
    with io.open_write(io.join(context.work, name)) as stream:
        offset = 0
        for number, (data, path, label) in enumerate(_read_rows(context, part)):
            reason = "" if data is not None else "a row without image bytes"
            if labelled and not reason and (label is None or label < 0):
                reason = "a row without a label"
            size = stream.write(data) if data else 0
            image = SourceImage(
                key="",
                rule="",
                split=part.split,
                name="",
                label=NO_LABEL if label is None else label,
                source=f"{part.path}#{number}",
                layout="parquet",
                file=name,
                offset=offset,
                size=size,
                reason=reason,
            )
            offset += size
            yield with_key(image, context.config, path)


def _read_rows(context: ScanContext, part: SourcePart) -> Iterator[tuple[bytes | None, str, int | None]]:
    """Bytes, file name and label of each row. Raises `DataError` where a file cannot be read further."""
    import pyarrow as pa

    from vim_core.data.image_tables import open_parquet

    try:
        file = open_parquet(io.join(context.config.source, part.path))
        column, label = find_columns(file.schema_arrow, part.path, context.config.labelled)
        for batch in file.iter_batches(ROWS, columns=[name for name in (column, label) if name]):
            labels = batch.column(label).to_pylist() if label else [None] * len(batch)
            for value, number in zip(batch.column(column).to_pylist(), labels, strict=True):
                image = value if isinstance(value, dict) else {"bytes": value}
                yield image.get("bytes"), image.get("path") or "", number
    except (pa.ArrowException, OSError) as error:
        raise unreadable(part.path, f"cannot be read further ({' '.join(str(error).split())})") from error


def find_columns(schema: Any, path: str, labelled: bool) -> tuple[str, str]:
    """The names of image and label column, '' for no label. Raises `DataError` where they are missing."""
    import pyarrow as pa

    def holds_bytes(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return bool(kind.get_field_index("bytes") >= 0)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    image = next((field.name for field in schema if holds_bytes(field.type)), "")
    label = next((field.name for field in schema if field.name in LABELS and pa.types.is_integer(field.type)), "")
    if not image or (labelled and not label):
        wanted = "a column of image bytes" if not image else f"a whole-number column {' or '.join(LABELS)}"
        raise DataError(f"{path}: has the columns {schema.names}, and none is {wanted}")
    return image, label
