"""Image folders: what lies there, which class and split each file belongs to, reading without leaving the folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vim_core import io
from vim_core.data.tables import hashed
from vim_core.errors import DataError

LAYOUTS = {
    "hash": "<source>/<class>/**/<image>",
    "folders": "<source>/train/<class>/**/<image> and <source>/val/<class>/**/<image>",
    "lists": "<source>/<class>/**/<image>, each named in one of the lists",
}
"""Where images lie by `ingest.split`; without labels the class folder may be missing."""
SPLIT_FOLDERS = {"train": "train", "val": "test"}


@dataclass(frozen=True)
class Entry:
    """A file below the source: path with '/', size, a text that changes with its content, why it is not usable."""

    path: str
    size: int
    state: str
    reason: str = ""


@dataclass(frozen=True)
class Item:
    """A file with its place in the data set; `reason` says why it cannot be used, '' where it can."""

    key: str
    path: str
    split: str
    name: str
    reason: str = ""


def listing(source: str, split: str) -> list[Entry]:
    """All files below a local or remote folder in path order; names that begin with a dot are passed over.

    Links to files are followed only inside the source, links to folders never; both are listed with the reason.

    Raises:
        DataError: the folder is missing or empty.
    """
    entries = sorted(_local(source) if io.is_local(source) else _remote(source), key=lambda entry: entry.path)
    if not entries:
        missing = "has no files in it" if io.exists(source) else "does not exist"
        layout = LAYOUTS[split]
        raise DataError(f"ingest.source={source}: {missing}; expected builtin:digits or a folder laid out as {layout}")
    return entries


def state(entries: list[Entry]) -> str:
    """sha256 over path, size and version of every file."""
    total = hashlib.sha256()
    for entry in entries:
        total.update(repr((entry.path, entry.size, entry.state, entry.reason)).encode())
    return total.hexdigest()


def _local(source: str) -> Iterator[Entry]:
    root = io.local_path(source).resolve()
    if not root.is_dir():
        return
    for folder, folders, files in os.walk(root, onerror=_unreadable):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders[:] = [name for name in folders if not name.startswith(".") and name not in links]
        for name in [*files, *links]:
            if not name.startswith("."):
                yield _entry(root, Path(folder, name), name in links)


def _unreadable(error: OSError) -> None:
    raise DataError(f"ingest.source: cannot list {error.filename} ({error.strerror}); make it readable") from error


def _entry(root: Path, path: Path, linked_folder: bool) -> Entry:
    name = path.relative_to(root).as_posix()
    shown = name.encode("utf-8", "backslashreplace").decode()
    if linked_folder:
        return Entry(shown, 0, "", "a link to a folder; links to folders are not followed")
    if shown != name:
        return Entry(shown, 0, "", "the file name is not UTF-8")
    try:
        if not path.resolve(strict=True).is_relative_to(root):
            return Entry(name, 0, "", "a link that leaves the source")
        found = path.stat()
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        return Entry(name, 0, "", "a link to nothing")
    return Entry(name, found.st_size, str(found.st_mtime_ns))


def _remote(source: str) -> Iterator[Entry]:
    for path, info in io.files(source).items():
        if not any(part.startswith(".") for part in path.split("/")):
            yield Entry(path, int(info.get("size") or 0), io.version(info))


def place(entry: Entry, split: str, test_fraction: float, labelled: bool = True) -> Item:
    """Where a file belongs: its class is the first folder of its path (below train/ or val/ for split 'folders').

    Unless `labelled`, it has none, and needs no class folder.
    """
    parts = entry.path.split("/")
    side = held_out(entry.path, test_fraction)
    reason = entry.reason
    if split == "folders":
        side = SPLIT_FOLDERS.get(parts[0], "") if len(parts) > 1 else ""
        parts = parts[1:]
        reason = reason or ("" if side else "neither below train/ nor below val/")
    name = parts[0] if labelled and len(parts) > 1 else ""
    reason = reason or ("" if name or not labelled else "not inside a class folder")
    return Item(entry.path, entry.path, side, name, reason)


def held_out(key: str, test_fraction: float) -> str:
    """'test' for keys whose sha256, read as a fraction, lies below `test_fraction`, else 'train'."""
    return "test" if hashed(key) / 2**256 < test_fraction else "train"


def read(source: str, path: str) -> bytes:
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
