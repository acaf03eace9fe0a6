"""Class folders: every image is a file, its class the first folder of its path."""

from __future__ import annotations

from collections.abc import Iterator

from components.ingest.labels import read_truth, resolver, stem_of
from components.ingest.layouts.base import Container, Found, Job
from components.ingest.locator import UNKNOWN, WHOLE, Located, keyed
from vim_core.data import folders
from vim_core.data.folders import FileEntry

SPLITS = {"train": "train", "val": "test"}
GROUPS = 32
"""Workers that class folders are spread over: listing them takes little."""

LOOSE = "loose"
"""The kind of a part that holds the files directly in a folder, without those below it."""


def find(job: Job) -> Found:
    """One part a class folder, one more for the files beside them. Raises `DataError` for a missing or empty source."""
    source = job.config.source
    next(folders.list_files(source, job.config.split))
    found = _parts(source, "")
    if job.config.split == "folders":
        inner = [part for part in found if not part.kind and part.path in SPLITS]
        found = [part for part in found if part not in inner]
        found += [part for outer in inner for part in _parts(source, outer.path)]
    return Found(found, together=1 + len(found) // GROUPS)


def _parts(source: str, folder: str) -> list[Container]:
    level = folders.list_folder(source, folder)
    below = [Container(f"{folder}/{name}".lstrip("/")) for name, entry in level if entry is None]
    loose = [Container(folder, kind=LOOSE)] if len(below) < len(level) else []
    return loose + below


def scan(job: Job, container: Container) -> Iterator[Located]:
    """Every file, also those that cannot be images."""
    source = job.config.source
    if container.kind == LOOSE:
        level = folders.list_folder(source, container.path)
        entries: Iterator[FileEntry] = (entry for _, entry in level if entry is not None)
    else:
        entries = folders.walk(source, container.path)
    resolve = resolver(job.classes, read_truth(job.truth)) if job.truth else None
    for entry in entries:
        image = _placed(job, entry)
        if resolve and image.split == "test" and not entry.reason:
            name, label, reason = resolve(stem_of(entry.path))
            image = image._replace(name=name, label=label, reason=reason)
        yield keyed(image, job.config, entry.path)


def _placed(job: Job, entry: FileEntry) -> Located:
    parts, reason, split = entry.path.split("/"), entry.reason, ""
    if job.config.split == "folders":
        split = SPLITS.get(parts[0], "") if len(parts) > 1 else ""
        parts = parts[1:]
        reason = reason or ("" if split else "neither below train/ nor below val/")
    name = parts[0] if job.config.labelled and len(parts) > 1 else ""
    if not (reason or name or not job.config.labelled or (job.truth and split == "test")):
        reason = "not inside a class folder"
    return Located("", "", split, name, UNKNOWN, entry.path, "folders", entry.path, WHOLE, entry.size, reason)
