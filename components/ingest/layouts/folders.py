"""Images of their own: files in class folders, whose class is the first folder of their path, and built-in digits."""

from __future__ import annotations

from collections.abc import Iterator

from components.ingest.labels import file_stem, label_resolver, read_truth
from components.ingest.layouts.base import ScanContext, SourcePart, SourceParts
from components.ingest.source_images import NO_LABEL, WHOLE_FILE, SourceImage, with_key
from vim_core.data import folders
from vim_core.data.folders import FileEntry

SPLITS = {"train": "train", "val": "test"}
GROUPS = 32
"""Groups that class folders are scanned in: listing one takes little time."""

LOOSE = "loose"
"""The kind of a part that holds the files directly in a folder, without those below it."""


def find_parts(context: ScanContext) -> SourceParts:
    """One part a class folder, one more for the files beside them. Raises `DataError` for a missing or empty source."""
    source = context.config.source
    next(folders.list_files(source, context.config.split))
    parts = _folder_parts(source, "")
    if context.config.split == "folders":
        outer = [part for part in parts if not part.kind and part.path in SPLITS]
        parts = [part for part in parts if part not in outer]
        parts += [part for split in outer for part in _folder_parts(source, split.path)]
    return SourceParts(parts, group_size=1 + len(parts) // GROUPS)


def _folder_parts(source: str, folder: str) -> list[SourcePart]:
    level = folders.list_folder(source, folder)
    below = [SourcePart(f"{folder}/{name}".lstrip("/")) for name, entry in level if entry is None]
    loose = [SourcePart(folder, kind=LOOSE)] if len(below) < len(level) else []
    return loose + below


def scan_part(context: ScanContext, part: SourcePart) -> Iterator[SourceImage]:
    """Every file, also those that cannot be images, with split and class by its folders."""
    config = context.config
    if part.kind == LOOSE:
        entries: Iterator[FileEntry] = (
            entry for _, entry in folders.list_folder(config.source, part.path) if entry is not None
        )
    else:
        entries = folders.walk(config.source, part.path)
    resolve = label_resolver(context.classes, read_truth(context.truth)) if context.truth else None
    for entry in entries:
        parts, split, label, reason = entry.path.split("/"), "", NO_LABEL, entry.reason
        if config.split == "folders":
            split = SPLITS.get(parts[0], "") if len(parts) > 1 else ""
            parts = parts[1:]
            reason = reason or ("" if split else "neither below train/ nor below val/")
        name = parts[0] if config.labelled and len(parts) > 1 else ""
        if resolve and split == "test" and not entry.reason:
            name, label, reason = resolve(file_stem(entry.path))
        elif config.labelled and not (reason or name):
            reason = "not inside a class folder"
        path = entry.path
        image = SourceImage("", "", split, name, label, path, "folders", path, WHOLE_FILE, entry.size, reason)
        yield with_key(image, config, path)


def find_digits(context: ScanContext) -> SourceParts:
    """All digits are one part."""
    return SourceParts([SourcePart("builtin:digits")])


def scan_digits(context: ScanContext, part: SourcePart) -> Iterator[SourceImage]:
    """Every digit by its number."""
    from vim_core.data import digits

    for index in range(digits.count()):
        name, source = digits.CLASSES[digits.label(index)], f"{part.path}/{index}"
        yield SourceImage(digits.key(index), "digits", "", name, NO_LABEL, source, "digits", str(index))
