"""Images in the rows of Parquet files: Hugging Face style, and image tables such as those that `ingest` makes.

The former have a column of image bytes, or of structs of bytes and path, one of labels, and class names in the
metadata; of the latter keys and labels are kept. A row of Parquet cannot be read alone: its page is compressed with
its neighbours, and shards take rows from everywhere. So each file is unpacked once into a file of bare bytes in the
work folder, and its images point into that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from components.ingest.labels import parse_label
from components.ingest.layouts.base import ScanContext, SourcePart, SourceParts, file_parts, unpacked_name, unreadable
from components.ingest.source_images import NO_LABEL, SourceImage, with_key
from vim_core.config import IngestConfig
from vim_core.errors import DataError
from vim_core.storage import io

ROWS = 16
"""Rows that are held in memory."""

IMAGE_NAMES = ("image", "images", "img", "picture", "photo", "jpg", "jpeg", "png", "webp")
LABELS = ("label", "labels", "cls", "class")
MAGIC, FOOTER, BLOCK = b"PAR1", 8, 1 << 20
"""The first and last bytes of a file, and the number of bytes behind the metadata."""
METADATA = b"huggingface"
MANIFEST = "manifest.json"
DEAD_LETTERS = "dead_letter.parquet"
"""The other table beside the images of an artifact."""


def find_parts(context: ScanContext) -> SourceParts:
    """One part a file, and the class names in the files' metadata.

    Raises:
        DataError: the source is missing, or the first file has no such columns, or several.
    """
    from vim_core.data.image_tables import open_parquet

    parts = file_parts(context, lambda path: path.endswith(".parquet"))
    if parts.parts:
        first = parts.parts[0].path
        schema = open_parquet(io.join(context.config.source, first)).schema_arrow
        label = find_columns(schema, first, context.config)[1]
        parts.classes = _class_names(schema, label)
        # The other files must name the same classes: their labels are numbers.
        parts.parts = [part._replace(kind=repr(parts.classes)) for part in parts.parts]
    return parts


def find_table_parts(context: ScanContext) -> SourceParts:
    """One part a file; of an artifact the files and classes that its manifest names.

    Raises:
        DataError: the source is missing or empty, or the manifest is no artifact's.
    """
    source = context.config.source
    classes: tuple[str, ...] = ()
    images: set[str] | None = None
    if io.exists(io.join(source, MANIFEST)):
        try:
            manifest = json.loads(io.read_bytes(io.join(source, MANIFEST)))
            images = {entry["path"] for entry in manifest["files"] if entry["name"].startswith("images/")}
            classes = tuple(manifest["properties"].get("classes", ()))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{source}/{MANIFEST}: is not an artifact's manifest ({error!r})") from error

    def holds_images(path: str) -> bool:
        if images is not None:
            return path.endswith(".parquet") and path in images
        return path.endswith(".parquet") and path.rsplit("/", 1)[-1] != DEAD_LETTERS

    parts = file_parts(context, holds_images)
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
    target, offset = unpacked_name(part), 0
    with io.open_write(io.join(context.work, target)) as stream:
        for number, (data, text, value) in enumerate(_read_rows(context, part, layout == "table")):
            reason = "" if data is not None else "a row without image bytes"
            name, label = "", NO_LABEL
            if context.config.labelled and not reason:
                try:
                    name, label = parse_label(value)
                    reason = "" if name or label != NO_LABEL else "a row without a label"
                except ValueError as error:
                    reason = f"its label cannot be read ({error})"
            source, size = f"{part.path}#{number}", stream.write(data) if data else 0
            yield SourceImage("", "", part.split, name, label, source, layout, target, offset, size, reason), text
            offset += size


def _read_rows(context: ScanContext, part: SourcePart, table: bool) -> Iterator[tuple[bytes | None, str, Any]]:
    """Bytes, path (of a table: key) and label of each row. Raises `DataError` where a file cannot be read further."""
    import pyarrow as pa

    from vim_core.data.image_tables import open_parquet

    try:
        uri = io.join(context.config.source, part.path)
        file = open_parquet(uri)
        _check_single(uri, part.path, file.metadata)
        columns = ["image", "label", "key"]
        if not table:
            image, label = find_columns(file.schema_arrow, part.path, context.config)
            columns = [image, label, ""]
            if context.config.labelled and repr(_class_names(file.schema_arrow, label)) != part.kind:
                raise DataError(f"{part.path}: names other classes than the first file; their labels cannot be joined")
        for batch in file.iter_batches(ROWS, columns=[name for name in columns if name]):
            for row in batch.to_pylist():
                cell, value, key = (row[name] if name else None for name in columns)
                fields: dict[str, Any] = cell if isinstance(cell, dict) else {"bytes": cell}
                yield fields.get("bytes"), key or fields.get("path") or "", value
    except (pa.ArrowException, OSError) as error:
        raise unreadable(part.path, f"cannot be read further ({' '.join(str(error).split())})") from error


def _check_single(uri: str, path: str, metadata: Any) -> None:
    """Raise `DataError` for files joined by `cat`: of these a reader sees the last alone, at the others' offsets.

    Between the last column and the footer lie only the indexes of one file; of joined files, all but one.
    """
    last = 4
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            pages = [offset for offset in (chunk.dictionary_page_offset, chunk.data_page_offset) if offset]
            last = max(last, min(pages, default=0) + chunk.total_compressed_size)
    with io.open_read(uri) as stream:
        size = stream.seek(0, 2)
        gap = size - FOOTER - metadata.serialized_size - last
        stream.seek(0)
        rest = b""
        for start in range(0, max(0, gap), BLOCK):
            data = rest + stream.read(min(BLOCK, gap + FOOTER - start))
            if MAGIC + MAGIC in data:
                raise DataError(
                    f"ingest.source: {path}: holds several Parquet files joined; keep them as files of their own"
                )
            rest = data[-FOOTER:]


def find_columns(schema: Any, path: str, config: IngestConfig) -> tuple[str, str]:
    """The names of image and label column, '' for no label.

    They are those of the settings, else those that Hugging Face's metadata call image and class, else those with a
    usual name, else, for images, the only column of bytes.

    Raises:
        DataError: none, or several columns could be meant.
    """
    import pyarrow as pa

    def holds_bytes(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return bool(kind.get_field_index("bytes") >= 0)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    def holds_label(kind: Any) -> bool:
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            return holds_label(kind.value_type)
        if pa.types.is_dictionary(kind):
            return holds_label(kind.value_type)
        tests = ("integer", "floating", "string", "large_string", "binary", "large_binary")
        return any(getattr(pa.types, f"is_{name}")(kind) for name in tests)

    features, names = _features(schema), [field.name for field in schema]
    pictures = [field.name for field in schema if holds_bytes(field.type)]
    marked = [name for name in pictures if features.get(name, {}).get("_type") == "Image"]
    usual = [name for name in pictures if name.lower() in IMAGE_NAMES]
    both = [name for name in marked if name in usual]
    image = _choose(path, "image", config.image_column, names, (both, marked, usual, pictures))
    labels = [field.name for field in schema if holds_label(field.type) and field.name != image]
    if not config.labelled:
        return image, ""
    marked = [name for name in labels if features.get(name, {}).get("_type") == "ClassLabel"]
    usual = [name for name in labels if name.lower() in LABELS]
    both = [name for name in marked if name in usual]
    return image, _choose(path, "label", config.label_column, names, (both, marked, usual))


def _choose(path: str, what: str, setting: str, names: list[str], choices: Iterable[list[str]]) -> str:
    """The column of the setting, else the only one of the first choice that has any."""
    if setting:
        if setting not in names:
            raise DataError(f"ingest.{what}_column={setting}: {path} has the columns {', '.join(names)}")
        return setting
    for choice in choices:
        if len(choice) > 1:
            raise DataError(f"{path}: {' and '.join(choice)} may be the {what}; name one as ingest.{what}_column")
        if choice:
            return choice[0]
    raise DataError(f"{path}: none of its columns {', '.join(names)} is known as {what}; set ingest.{what}_column")


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Hugging Face's description of the columns; empty where there is none."""
    try:
        features = json.loads((schema.metadata or {})[METADATA])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _class_names(schema: Any, label: str) -> tuple[str, ...]:
    """The names of the classes in the order of their labels, where the metadata give them."""
    names = _features(schema).get(label, {}).get("names", ())
    return tuple(map(str, names)) if isinstance(names, list) else ()
