"""Images in the rows of Parquet files: Hugging Face style, and image tables such as those that `ingest` makes.

The former have a struct `image` of bytes and path, a whole number `label`, and class names in the metadata; of the
latter keys and labels are kept. A row of Parquet cannot be read alone: its page is compressed with its neighbours, and
shards take rows from everywhere. So each file is unpacked once into a file of bare bytes in the work folder, and its
images point into that.
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
MANIFEST = "manifest.json"
DEAD_LETTERS = "dead_letter.parquet"
"""The other table beside the images of an artifact."""


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


def find_table_parts(context: ScanContext) -> SourceParts:
    """One part a file; of an artifact the files and classes that its manifest names.

    Raises:
        DataError: the source is missing or empty, or the manifest is no artifact's.
    """
    source = context.config.source
    files = [entry for entry in folders.list_files(source) if entry.path.endswith(".parquet")]
    classes: tuple[str, ...] = ()
    if io.exists(io.join(source, MANIFEST)):
        try:
            manifest = json.loads(io.read_bytes(io.join(source, MANIFEST)))
            images = {entry["path"] for entry in manifest["files"] if entry["name"].startswith("images/")}
            classes = tuple(manifest["properties"].get("classes", ()))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{source}/{MANIFEST}: is not an artifact's manifest ({error!r})") from error
        files = [entry for entry in files if entry.path in images]
    else:
        files = [entry for entry in files if entry.path.rsplit("/", 1)[-1] != DEAD_LETTERS]
    parts = file_parts(context.config, files)
    parts.classes = classes
    return parts


def scan_part(context: ScanContext, part: SourcePart) -> Iterator[SourceImage]:
    """Every row of a file, its bytes unpacked on the way; its path makes the key."""
    for image, path in _unpack_rows(context, part, "parquet"):
        yield with_key(image, context.config, path)


def scan_table_part(context: ScanContext, part: SourcePart) -> Iterator[SourceImage]:
    """Every row of a file, its bytes unpacked on the way, under its own key."""
    for image, key in _unpack_rows(context, part, "table"):
        yield image._replace(key=key, rule="table")


def _unpack_rows(context: ScanContext, part: SourcePart, layout: str) -> Iterator[tuple[SourceImage, str]]:
    """Each row without a key, beside its path or, in a table, its key; its bytes go into the part's unpacked file."""
    name, offset = unpacked_name(part), 0
    with io.open_write(io.join(context.work, name)) as stream:
        for number, (data, text, label) in enumerate(_read_rows(context, part, layout == "table")):
            reason = "" if data is not None else "a row without image bytes"
            if context.config.labelled and not reason and (label is None or label < 0):
                reason = "a row without a label"
            label, source = NO_LABEL if label is None else label, f"{part.path}#{number}"
            size = stream.write(data) if data else 0
            yield SourceImage("", "", part.split, "", label, source, layout, name, offset, size, reason), text
            offset += size


def _read_rows(context: ScanContext, part: SourcePart, table: bool) -> Iterator[tuple[bytes | None, str, int | None]]:
    """Bytes, path (of a table: key) and label of each row. Raises `DataError` where a file cannot be read further."""
    import pyarrow as pa

    from vim_core.data.image_tables import open_parquet

    try:
        file = open_parquet(io.join(context.config.source, part.path))
        columns = ["image", "label", "key"]
        if not table:
            columns = [*_find_columns(file.schema_arrow, part.path, context.config.labelled), ""]
        for batch in file.iter_batches(ROWS, columns=[name for name in columns if name]):
            for row in batch.to_pylist():
                image, label, key = (row[name] if name else None for name in columns)
                image = image if isinstance(image, dict) else {"bytes": image}
                yield image.get("bytes"), key or image.get("path") or "", label
    except (pa.ArrowException, OSError) as error:
        raise unreadable(part.path, f"cannot be read further ({' '.join(str(error).split())})") from error


def _find_columns(schema: Any, path: str, labelled: bool) -> tuple[str, str]:
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
