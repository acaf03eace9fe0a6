"""Image folders: listing and reading their files without leaving the folder, and the split of each file.

Splits come from a hash of the key, or from list files such as taming-transformers' splits.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vim_core.errors import DataError
from vim_core.storage import io

LAYOUTS = {
    "hash": "<source>/<class>/**/<image>",
    "folders": "<source>/train/<class>/**/<image> and <source>/val/<class>/**/<image>",
    "lists": "<source>/<class>/**/<image>, each named in one of the lists",
}
"""The expected folder layout by `ingest.split`; without labels the class folder may be missing."""

SHOWN_NAMES = 3
"""File names shown in an error."""


@dataclass(frozen=True)
class FileEntry:
    """A file below the source.

    `path` has '/'; `state` is a text that changes with the content; `reason` says why it cannot be used, or is ''.
    """

    path: str
    size: int
    state: str
    reason: str = ""


@dataclass(frozen=True)
class SplitList:
    """A list file: the setting that names it, its split, its lines (paths or stems) and the sha256 of its bytes."""

    setting: str
    split: str
    lines: tuple[str, ...]
    digest: str


def list_files(source: str, split: str = "hash") -> Iterator[FileEntry]:
    """All files below a local or remote folder in path order; names that begin with a dot are left out.

    One folder at a time is held in memory. Links to files are followed only inside the source, links to folders never;
    both are listed with the reason.

    Raises:
        DataError: the folder is missing or empty.
    """
    empty = True
    for entry in walk(source):
        empty = False
        yield entry
    if empty:
        missing = "has no files in it" if io.exists(source) else "does not exist"
        layout = LAYOUTS[split]
        raise DataError(f"ingest.source={source}: {missing}; expected builtin:digits or a folder laid out as {layout}")


def walk(source: str, folder: str = "") -> Iterator[FileEntry]:
    """Like `list_files` below one folder of the source ('' for all), which may be empty or missing."""
    for name, entry in list_folder(source, folder):
        if entry is not None:
            yield entry
        else:
            yield from walk(source, f"{folder}/{name}".lstrip("/"))


def list_folder(source: str, folder: str = "") -> list[tuple[str, FileEntry | None]]:
    """Names in a folder of the source with their entries, None for folders, in the order of complete paths."""
    entries = _local_entries(source, folder) if io.is_local(source) else _remote_entries(source, folder)
    # "a-b" comes before "a/x" but after "a": a folder is sorted as the beginning of the paths below it.
    return sorted(entries, key=lambda pair: pair[0] if pair[1] else pair[0] + "/")


def listing_digest(entries: Iterable[FileEntry]) -> str:
    """sha256 over path, size and version of every file."""
    total = hashlib.sha256()
    for entry in entries:
        total.update(repr((entry.path, entry.size, entry.state, entry.reason)).encode())
    return total.hexdigest()


def _local_entries(source: str, folder: str) -> Iterator[tuple[str, FileEntry | None]]:
    root = io.local_path(source).resolve()
    try:
        with os.scandir(root / folder) as items:
            for item in items:
                if not item.name.startswith("."):
                    is_folder = item.is_dir(follow_symlinks=False)
                    yield item.name, None if is_folder else _local_entry(root, Path(item.path))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise DataError(f"ingest.source: cannot list {error.filename} ({error.strerror}); make it readable") from error


def _local_entry(root: Path, path: Path) -> FileEntry:
    name = path.relative_to(root).as_posix()
    shown = name.encode("utf-8", "backslashreplace").decode()
    if path.is_symlink() and os.path.isdir(path):
        return FileEntry(shown, 0, "", "a link to a folder; links to folders are not followed")
    if shown != name:
        return FileEntry(shown, 0, "", "the file name is not UTF-8")
    try:
        # Folders on the way are no links: links to folders are not followed.
        if path.is_symlink() and not path.resolve(strict=True).is_relative_to(root):
            return FileEntry(name, 0, "", "a link that leaves the source")
        info = path.stat()
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        return FileEntry(name, 0, "", "a link to nothing")
    return FileEntry(name, info.st_size, str(info.st_mtime_ns))


def _remote_entries(source: str, folder: str) -> Iterator[tuple[str, FileEntry | None]]:
    for name, info in io.list_entries(io.join(source, folder) if folder else source):
        path = f"{folder}/{name}".lstrip("/")
        if not name.startswith("."):
            is_folder = info.get("type") == "directory"
            yield name, None if is_folder else FileEntry(path, int(info.get("size") or 0), io.version_of(info))


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


def split_by_hash(key: str, test_fraction: float) -> str:
    """'test' for keys whose sha256, read as a fraction, lies below `test_fraction`, else 'train'."""
    from vim_core.data.image_tables import stable_hash  # imports pyarrow, which listing does not need

    return "test" if stable_hash(key) / 2**256 < test_fraction else "train"


def read_list(uri: str, setting: str, split: str) -> SplitList:
    """Read a list file from a path or URI; empty lines and spaces around names are ignored.

    Raises:
        DataError: the file is not there, is not UTF-8, or names nothing.
    """
    try:
        data = io.read_bytes(uri)
        text = data.decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"{setting}={uri}: cannot be read ({reason}); give the path or URI of a text file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{setting}={uri}: is not UTF-8 text with one image a line ({error})") from error
    lines = tuple(name for line in text.splitlines() if (name := line.strip().removeprefix("./")))
    if not lines:
        raise DataError(f"{setting}={uri}: names no image; expected one a line")
    return SplitList(setting, split, lines, hashlib.sha256(data).hexdigest())


def assign_splits(paths: Iterable[str], lists: Sequence[SplitList]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The split of every listed file of `paths` (relative, with '/'), and (line, reason) of lines that name no file.

    A line names a file

    1. whose path below the source is the line;
    2. else whose path is the line but for the suffix: `imgHQ00000.npy` and `imgHQ00000` both name `imgHQ00000.png`;
    3. else, if the line has no folder in it, whose own name is the line but for the suffix, in whatever folder it
       lies: `00000.png` names `00000/00000.png`.

    Raises:
        DataError: a line names several files by the same rule, or two lines name one file.
    """
    known = set(paths)
    by_stem: dict[str, list[str]] = defaultdict(list)
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in sorted(known):
        by_stem[_stem(path)].append(path)
        by_name[_stem(path).rsplit("/", 1)[-1]].append(path)
    splits: dict[str, str] = {}
    named_by: dict[str, str] = {}
    missing: list[tuple[str, str]] = []
    for split_list in lists:
        for line in split_list.lines:
            # A stem may itself hold a dot ("v1.5-cat"), so the complete line comes first.
            matches = [line] if line in known else by_stem.get(line) or by_stem.get(_stem(line), [])
            if not matches and "/" not in line:
                matches = by_name.get(line) or by_name.get(_stem(line), [])
            if not matches:
                missing.append((line, f"listed in {split_list.setting} but not below the source"))
                continue
            if len(matches) > 1:
                names = ", ".join(matches[:SHOWN_NAMES]) + (", …" if len(matches) > SHOWN_NAMES else "")
                problem = f"{line!r} names {len(matches)} files ({names}); write the path of one of them"
                raise DataError(f"{split_list.setting}: {problem}")
            path = matches[0]
            entry = f"{split_list.setting} ({line})"
            if path in named_by:
                raise DataError(f"{entry} and {named_by[path]} both name {path}: name every image once, in one list")
            splits[path], named_by[path] = split_list.split, entry
    return splits, missing


def _stem(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)
