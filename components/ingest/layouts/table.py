"""Another image table, such as one that `ingest` made: its keys and labels are kept."""

from __future__ import annotations

import json
from collections.abc import Iterator

from components.ingest.layouts.base import ScanContext, SourcePart, SourceParts, file_parts, unpacked_name, unreadable
from components.ingest.layouts.parquet import ROWS
from components.ingest.source_images import SourceImage
from vim_core.data import folders
from vim_core.errors import DataError
from vim_core.storage import io

MANIFEST = "manifest.json"
DEAD_LETTERS = "dead_letter.parquet"
"""The other table beside the images of an artifact."""


def find_parts(context: ScanContext) -> SourceParts:
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
    """Every row of a file, its bytes unpacked on the way as for Parquet."""
    import pyarrow as pa

    from vim_core.data.image_tables import open_parquet

    name = unpacked_name(part)
    offset = number = 0
    with io.open_write(io.join(context.work, name)) as stream:
        try:
            file = open_parquet(io.join(context.config.source, part.path))
            for batch in file.iter_batches(ROWS, columns=["key", "label", "image"]):
                for row in batch.to_pylist():
                    size = stream.write(row["image"])
                    yield SourceImage(
                        key=row["key"],
                        rule="table",
                        split=part.split,
                        name="",
                        label=row["label"],
                        source=f"{part.path}#{number}",
                        layout="table",
                        file=name,
                        offset=offset,
                        size=size,
                        reason="a row without a label" if context.config.labelled and row["label"] < 0 else "",
                    )
                    offset, number = offset + size, number + 1
        except (pa.ArrowException, OSError) as error:
            raise unreadable(part.path, f"cannot be read further ({' '.join(str(error).split())})") from error
