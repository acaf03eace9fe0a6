"""Hugging Face style Parquet: a struct `image` of bytes and path, a whole number `label`, class names in the metadata.

A row of Parquet cannot be read alone: its page is compressed with its neighbours, and shards take rows from everywhere.
So each file is unpacked once into a file of bare bytes in the work folder, and the locators point into that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

from components.ingest.layouts.base import Container, Found, Job, by_side, state_of, unpacked_name, unreadable
from components.ingest.locator import UNKNOWN, Located, keyed
from vim_core.data import folders
from vim_core.errors import DataError
from vim_core.storage import io

ROWS = 16
"""Rows that are held in memory."""

LABELS = ("label", "labels", "cls")
METADATA = b"huggingface"


def find(job: Job) -> Found:
    """One part a file, and the class names that the files' metadata give. Raises `DataError` for a missing source."""
    files = [entry for entry in folders.list_files(job.config.source) if entry.path.endswith(".parquet")]
    taken, left_out = by_side(job.config, files)
    parts = [Container(entry.path, state_of(entry), split) for entry, split in taken]
    return Found(parts, left_out, class_names(job.config.source, taken[0][0].path) if taken else ())


def class_names(source: str, path: str) -> tuple[str, ...]:
    """Class names in label order from the metadata of a file, () where there are none."""
    from vim_core.data.image_tables import open_parquet

    schema = open_parquet(io.join(source, path)).schema_arrow
    try:
        features = json.loads((schema.metadata or {})[METADATA])["info"]["features"]
        return tuple(next(features[name]["names"] for name in LABELS if "names" in features.get(name, {})))
    except (KeyError, ValueError, TypeError, StopIteration):
        return ()


def scan(job: Job, container: Container) -> Iterator[Located]:
    """Every row of a file, its bytes unpacked on the way."""
    name = unpacked_name(container)
    blank = Located("", "", container.split, "", UNKNOWN, container.path, "parquet", name)
    with io.open_write(io.join(job.work, name)) as stream:
        place = number = 0
        for row in _rows(job, container):
            image = blank._replace(source=f"{container.path}#{number}", offset=place)
            data, path, label = row
            place, number = place + _write(stream, data), number + 1
            reason = "" if data is not None else "a row without image bytes"
            if job.config.labelled and not reason and (label is None or label < 0):
                reason = "a row without a label"
            label = UNKNOWN if label is None else label
            yield keyed(image._replace(label=label, size=len(data or b""), reason=reason), job.config, path)


def _write(stream: IO[bytes], data: bytes | None) -> int:
    return stream.write(data) if data else 0


def _rows(job: Job, container: Container) -> Iterator[tuple[bytes | None, str, int | None]]:
    """Bytes, file name and label of each row. Raises `DataError` where a file cannot be read further."""
    import pyarrow as pa

    from vim_core.data.image_tables import open_parquet

    try:
        file = open_parquet(io.join(job.config.source, container.path))
        column, label = columns_of(file.schema_arrow, container.path, job.config.labelled)
        for batch in file.iter_batches(ROWS, columns=[name for name in (column, label) if name]):
            labels = batch.column(label).to_pylist() if label else [None] * len(batch)
            for value, number in zip(batch.column(column).to_pylist(), labels, strict=True):
                image = value if isinstance(value, dict) else {"bytes": value}
                yield image.get("bytes"), image.get("path") or "", number
    except (pa.ArrowException, OSError) as error:
        raise unreadable(container.path, f"cannot be read further ({' '.join(str(error).split())})") from error


def columns_of(schema: Any, path: str, labelled: bool) -> tuple[str, str]:
    """The names of image and label column, '' for no label. Raises `DataError` where they are missing."""
    import pyarrow as pa

    def holds(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return bool(kind.get_field_index("bytes") >= 0)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    image = next((field.name for field in schema if holds(field.type)), "")
    label = next((field.name for field in schema if field.name in LABELS and pa.types.is_integer(field.type)), "")
    if not image or (labelled and not label):
        wanted = "a column of image bytes" if not image else f"a whole-number column {' or '.join(LABELS)}"
        raise DataError(f"{path}: has the columns {schema.names}, and none is {wanted}")
    return image, label
