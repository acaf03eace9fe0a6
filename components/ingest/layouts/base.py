"""Shared by all layouts: the parts of a source that are scanned in parallel, and the split of a file by its name."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from components.ingest.labels import ClassList
from components.ingest.source_images import SourceImage
from vim_core.config import IngestConfig
from vim_core.data import folders
from vim_core.data.folders import FileEntry, side_in_path, split_of_side
from vim_core.errors import DataError

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
PICTURE_FILES = "picture files beside files of many images"
"""The kind by which such files are counted as left out."""


class SourcePart(NamedTuple):
    """A part of the source that one worker scans: a folder, an archive, a table file.

    Attributes:
        path: its path below the source.
        state: changes with its content; '' where that is not known before it is listed.
        split: 'train', 'test', or '' where the key decides.
        name: the class of all its images, '' where each image has its own.
        kind: a detail for the layout.
        offset: its first byte in the file.
        end: the byte behind its last; 0 for the end of the file.
    """

    path: str
    state: str = ""
    split: str = ""
    name: str = ""
    kind: str = ""
    offset: int = 0
    end: int = 0


@dataclass(frozen=True)
class ScanContext:
    """A layout's inputs: settings, the work folder, class list, and the URI of the ground truth ('' for none).

    `left_out` counts by kind what is not read: files of the system, and further pictures.
    """

    config: IngestConfig
    work: str
    classes: ClassList | None = None
    truth: str = ""
    left_out: Counter[str] = field(default_factory=Counter)

    def files(self) -> Iterator[FileEntry]:
        """All files of the source, system files counted. Raises `DataError` for a missing or empty source."""
        return folders.list_files(self.config.source, self.config.split, self.config.links, self.left_out)


@dataclass
class SourceParts:
    """The parts of a source.

    Attributes:
        parts: the parts.
        left_out: files of many images, or folders, that belong to no split.
        classes: the source's own class names in label order, where it has them.
        group_size: parts that one worker scans together: more than one where each takes little time, because every
            group costs files in the work folder.
    """

    parts: list[SourcePart]
    left_out: list[str] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    group_size: int = 1


class Layout(NamedTuple):
    """A way in which data sets of images are kept.

    Attributes:
        find_parts: gives the parts of the source; few, and found without reading images.
        scan_part: gives every image of a part; its bytes stay in the source unless they have to be unpacked.
    """

    find_parts: Callable[[ScanContext], SourceParts]
    scan_part: Callable[[ScanContext, SourcePart], Iterator[SourceImage]]


def unpacked_name(part: SourcePart) -> str:
    """The file in the work folder with the bytes of a part that cannot be read in place."""
    return f"unpacked/{hashlib.sha256(part.state.encode()).hexdigest()[:20]}.bin"


def file_parts(context: ScanContext, wanted: Callable[[str], bool]) -> SourceParts:
    """One part for each wanted path, with its split; files on neither side of `ingest.split=folders` are left out.

    Raises:
        DataError: a wanted file is unusable, or the source is missing or empty.
    """
    files: list[FileEntry] = []
    for file in context.files():
        if wanted(file.path):
            files.append(file)
        elif file.path.lower().endswith(PICTURES):
            context.left_out[PICTURE_FILES] += 1
    sides, splits = {file.path: "" for file in files}, {"": ""}
    if context.config.split == "folders":
        sides = {file.path: side_in_path(file.path) for file in files}
        splits = split_of_side(set(sides.values()))
    result = SourceParts([])
    for file in files:
        refuse_unusable(file)
        if sides[file.path] in splits:
            state = repr((file.path, file.size, file.state, file.reason))
            result.parts.append(SourcePart(file.path, state, splits[sides[file.path]]))
        else:
            result.left_out.append(file.path)
    return result


def refuse_unusable(file: FileEntry) -> None:
    """Raise `DataError` for a file of many images that was listed with a reason."""
    if file.reason == folders.LEAVES:
        remedy = "set ingest.links=anywhere to follow it, or put the file itself there"
        raise DataError(f"ingest.source: {file.path}: is {file.reason}; {remedy}")
    if file.reason:
        raise unreadable(file.path, file.reason)


def unreadable(path: str, reason: str) -> DataError:
    """The error for a file of many images that cannot be read to its end: the number of lost images is unknown."""
    return DataError(f"ingest.source: {path}: {reason}; download it again, or remove it")
