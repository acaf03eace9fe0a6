"""Another image table, such as one that `ingest` made: its keys and labels are kept."""

from __future__ import annotations

import json
from collections.abc import Iterator

from components.ingest.layouts.base import Container, Found, Job, by_side, state_of, unpacked_name, unreadable
from components.ingest.layouts.parquet import ROWS
from components.ingest.locator import UNKNOWN, Located
from vim_core.data import folders
from vim_core.errors import DataError
from vim_core.storage import io

MANIFEST = "manifest.json"
DEAD = "dead_letter.parquet"
"""The other table beside the images of an artifact."""


def find(job: Job) -> Found:
    """One part a file; of an artifact the files and classes that its manifest names.

    Raises:
        DataError: the source is missing or empty, or the manifest is none.
    """
    source = job.config.source
    files = [entry for entry in folders.list_files(source) if entry.path.endswith(".parquet")]
    classes: tuple[str, ...] = ()
    if io.exists(io.join(source, MANIFEST)):
        try:
            manifest = json.loads(io.read_bytes(io.join(source, MANIFEST)))
            named = {entry["path"] for entry in manifest["files"] if entry["name"].startswith("images/")}
            classes = tuple(manifest["properties"].get("classes", ()))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{source}/{MANIFEST}: is not an artifact's manifest ({error!r})") from error
        files = [entry for entry in files if entry.path in named]
    else:
        files = [entry for entry in files if entry.path.rsplit("/", 1)[-1] != DEAD]
    taken, left_out = by_side(job.config, files)
    return Found([Container(e.path, state_of(e), split) for e, split in taken], left_out, classes)


def scan(job: Job, container: Container) -> Iterator[Located]:
    """Every row of a file, its bytes unpacked on the way as for Parquet."""
    import pyarrow as pa

    from vim_core.data.image_tables import open_parquet

    name = unpacked_name(container)
    blank = Located(container.path, "path", container.split, "", UNKNOWN, container.path, "table", name)
    place = number = 0
    with io.open_write(io.join(job.work, name)) as stream:
        try:
            file = open_parquet(io.join(job.config.source, container.path))
            for batch in file.iter_batches(ROWS, columns=["key", "label", "image"]):
                for row in batch.to_pylist():
                    data, source = row["image"], f"{container.path}#{number}"
                    image = blank._replace(key=row["key"], rule="table", label=row["label"], source=source)
                    reason = "a row without a label" if job.config.labelled and row["label"] < 0 else ""
                    yield image._replace(offset=place, size=len(data), reason=reason)
                    place, number = place + stream.write(data), number + 1
        except (pa.ArrowException, OSError) as error:
            raise unreadable(container.path, f"cannot be read further ({' '.join(str(error).split())})") from error
