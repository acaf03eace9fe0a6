"""Images of their own: files in class folders, whose class is the first folder of their path, and built-in digits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from components.ingest.labels import file_stem, label_resolver, read_truth
from components.ingest.layouts.base import ScanContext, SourcePart, SourceParts
from components.ingest.source_images import NO_LABEL, WHOLE_FILE, SourceImage, with_key
from vim_core.data import folders
from vim_core.data.folders import FileEntry, side_in_path, split_of_side
from vim_core.errors import DataError
from vim_core.storage import io

GROUPS = 32
"""Groups that class folders are scanned in: listing one takes little time."""

SHOWN = 3
"""Folders that a message names."""

LOOSE = "loose"
"""The kind of a part that holds the files directly in a folder, without those below it."""


def find_parts(context: ScanContext) -> SourceParts:
    """One part a class folder, one more for the files beside them.

    With `ingest.split=folders` the first folder's name gives the side, by the words of `side_in_path`.

    Raises:
        DataError: the source is missing or empty, or its first folders are splits or a single one instead of classes.
    """
    config = context.config
    next(folders.list_files(config.source, config.split, config.links))
    parts, left_out = _folder_parts(context, ""), list[str]()
    outer = {part.path: side_in_path(part.path) for part in parts if not part.kind}
    _refuse_other_levels(context, outer)
    if config.split == "folders":
        splits = split_of_side(set(outer.values()))
        left_out = [f"{path}/" for path, side in outer.items() if side and side not in splits]
        inner = [part for part in parts if not part.kind and outer[part.path] in splits]
        parts = [part for part in parts if part.kind or not outer[part.path]]
        for folder in inner:
            split = splits[outer[folder.path]]
            parts += [part._replace(split=split) for part in _folder_parts(context, folder.path)]
    return SourceParts(parts, left_out, group_size=1 + len(parts) // GROUPS)


def _folder_parts(context: ScanContext, folder: str) -> list[SourcePart]:
    level = folders.list_folder(context.config.source, folder, context.config.links, context.left_out)
    below = [SourcePart(f"{folder}/{name}".lstrip("/")) for name, entry in level if entry is None]
    loose = [SourcePart(folder, kind=LOOSE)] if len(below) < len(level) else []
    return loose + below


def _refuse_other_levels(context: ScanContext, outer: Mapping[str, str]) -> None:
    """Raise `DataError` where the first folders (with their sides) cannot be what `ingest.split` takes them for."""
    config = context.config
    source = f"ingest.source={config.source}"
    sides = set(outer.values())
    by_class = config.split != "folders" and config.labelled and not config.classes
    if by_class and "train" in sides and "" not in sides and len(sides) > 1:
        names = " and ".join(f"{name}/" for name in sorted(outer))
        raise DataError(
            f"{source}: {names} are splits, not classes; set ingest.split=folders, or name one of them as the source "
            "(if they are classes indeed, name them as ingest.classes)"
        )
    if len(outer) == 1 and not config.classes and not (config.split == "folders" and any(sides)):
        (name,) = outer
        level = folders.list_folder(config.source, name, config.links)
        below = [each for each, entry in level if entry is None]
        if len(below) > 1 and len(below) == len(level) and (config.labelled or config.split == "folders"):
            first = ", ".join(f"{each}/" for each in below[:SHOWN]) + (", …" if len(below) > SHOWN else "")
            wanted = "train/ and a held-out folder" if config.split == "folders" else "class folders"
            raise DataError(
                f"{source}: holds {name}/ alone, and that holds {first}: {wanted} must be its first level; set "
                f"ingest.source={io.join(config.source, name)} (if {name} is the only class, ingest.classes=[{name}])"
            )


def scan_part(context: ScanContext, part: SourcePart) -> Iterator[SourceImage]:
    """Every file, also those that cannot be images, with split and class by its folders."""
    config = context.config
    if part.kind == LOOSE:  # its system files were counted with the folders beside them
        level = folders.list_folder(config.source, part.path, config.links)
        entries: Iterator[FileEntry] = (entry for _, entry in level if entry is not None)
    else:
        entries = folders.walk(config.source, part.path, config.links, context.left_out)
    resolve = label_resolver(context.classes, read_truth(context.truth)) if context.truth else None
    for entry in entries:
        parts, label, reason = entry.path.split("/"), NO_LABEL, entry.reason
        if config.split == "folders":
            parts = parts[1:]
            reason = reason or ("" if part.split else "neither below train/ nor below val/")
        name = parts[0] if config.labelled and len(parts) > 1 else ""
        if resolve and part.split == "test" and not entry.reason:
            name, label, reason = resolve(file_stem(entry.path))
        elif config.labelled and not (reason or name):
            reason = "not inside a class folder"
        path = entry.path
        image = SourceImage("", "", part.split, name, label, path, "folders", path, WHOLE_FILE, entry.size, reason)
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
