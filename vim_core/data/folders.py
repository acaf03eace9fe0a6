"""Image folders: what lies there, which class and split each file belongs to, reading without leaving the folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vim_core.errors import DataError
from vim_core.storage import io

LAYOUTS = {
    "hash": "<source>/<class>/**/<image>",
    "folders": "<source>/train/<class>/**/<image> and <source>/val/<class>/**/<image>",
    "lists": "<source>/<class>/**/<image>, each named in one of the lists",
}
"""Where images lie by `ingest.split`; without labels the class folder may be missing."""


@dataclass(frozen=True)
class FileEntry:
    """A file below the source: path with '/', size, a text that changes with its content, why it is not usable."""

    path: str
    size: int
    state: str
    reason: str = ""


def list_files(source: str, split: str = "hash") -> Iterator[FileEntry]:
    """All files below a local or remote folder in path order; names that begin with a dot are passed over.

    One folder at a time is held in memory. Links to files are followed only inside the source, links to folders never;
    both are listed with the reason.

    Raises:
        DataError: the folder is missing or empty.
    """
    found = False
    for entry in walk(source):
        found = True
        yield entry
    if not found:
        missing = "has no files in it" if io.exists(source) else "does not exist"
        layout = LAYOUTS[split]
        raise DataError(f"ingest.source={source}: {missing}; expected builtin:digits or a folder laid out as {layout}")


def walk(source: str, folder: str = "") -> Iterator[FileEntry]:
    """Like `listing` for the part of a source below one of its folders ('' for all), which may be empty or missing."""
    for name, entry in list_folder(source, folder):
        if entry is not None:
            yield entry
        else:
            yield from walk(source, f"{folder}/{name}".lstrip("/"))


def list_folder(source: str, folder: str = "") -> list[tuple[str, FileEntry | None]]:
    """Names directly in a folder of the source with their entries, None for folders, in the order of whole paths."""
    found = _local(source, folder) if io.is_local(source) else _remote(source, folder)
    # "a-b" comes before "a/x" but after "a": a folder is sorted as the beginning of the paths below it
    return sorted(found, key=lambda pair: pair[0] if pair[1] else pair[0] + "/")


def listing_digest(entries: Iterable[FileEntry]) -> str:
    """sha256 over path, size and version of every file."""
    total = hashlib.sha256()
    for entry in entries:
        total.update(repr((entry.path, entry.size, entry.state, entry.reason)).encode())
    return total.hexdigest()


def _local(source: str, folder: str) -> Iterator[tuple[str, FileEntry | None]]:
    root = io.local_path(source).resolve()
    try:
        with os.scandir(root / folder) as found:
            for item in found:
                if item.name.startswith("."):
                    continue
                linked = item.is_symlink() and os.path.isdir(item.path)
                yield item.name, None if item.is_dir(follow_symlinks=False) else _entry(root, Path(item.path), linked)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise DataError(f"ingest.source: cannot list {error.filename} ({error.strerror}); make it readable") from error


def _entry(root: Path, path: Path, linked_folder: bool) -> FileEntry:
    name = path.relative_to(root).as_posix()
    shown = name.encode("utf-8", "backslashreplace").decode()
    if linked_folder:
        return FileEntry(shown, 0, "", "a link to a folder; links to folders are not followed")
    if shown != name:
        return FileEntry(shown, 0, "", "the file name is not UTF-8")
    try:
        # a folder on the way is none: links to folders are not followed
        if path.is_symlink() and not path.resolve(strict=True).is_relative_to(root):
            return FileEntry(name, 0, "", "a link that leaves the source")
        found = path.stat()
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        return FileEntry(name, 0, "", "a link to nothing")
    return FileEntry(name, found.st_size, str(found.st_mtime_ns))


def _remote(source: str, folder: str) -> Iterator[tuple[str, FileEntry | None]]:
    for name, info in io.list_entries(io.join(source, folder) if folder else source):
        path = f"{folder}/{name}".lstrip("/")
        if not name.startswith("."):
            is_folder = info.get("type") == "directory"
            yield name, None if is_folder else FileEntry(path, int(info.get("size") or 0), io.version_of(info))


def split_by_hash(key: str, test_fraction: float) -> str:
    """'test' for keys whose sha256, read as a fraction, lies below `test_fraction`, else 'train'."""
    from vim_core.data.image_tables import stable_hash  # brings pyarrow along, which listing folders does not need

    return "test" if stable_hash(key) / 2**256 < test_fraction else "train"


def read_file(source: str, path: str) -> bytes:
    """The bytes of a listed file.

    Raises:
        DataError: the path leads out of the source, or the file is gone or unreadable since it was listed.
    """
    try:
        uri = io.join(source, path)
        if io.is_local(source):
            root = io.local_path(source).resolve()
            if not Path(root, path).resolve().is_relative_to(root):
                raise DataError("a link that leaves the source")
        return io.read_bytes(uri)
    except ValueError as error:
        raise DataError(f"a path that leaves the source: {error}") from error
    except (FileNotFoundError, PermissionError) as error:
        raise DataError(f"cannot be read: {error.strerror or type(error).__name__}") from error
