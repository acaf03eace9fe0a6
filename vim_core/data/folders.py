"""Image folders: listing and reading their files without leaving the folder, and the split of each file.

Splits come from a hash of the key, or from list files such as taming-transformers' splits.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
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

INSIDE, ANYWHERE = "inside", "anywhere"
"""Where links may lead: to what lies inside the source, or to any place that this account can read."""

SYSTEM_NAMES = {"@eadir": "@eaDir", "__macosx": "__MACOSX", "thumbs.db": "Thumbs.db", "desktop.ini": "desktop.ini"}
"""What file browsers and network storages leave beside images, by name in lower case."""

LEAVES = "a link that leaves the source"
"""The reason of a link to a file elsewhere."""

SIDES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "heldout": "val",
    "holdout": "val", "test": "test", "testing": "test",
}  # fmt: skip
WORD = re.compile(r"hold[-_ ]out|held[-_ ]out|[a-z]+")
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


def system_name(path: str) -> str:
    """The kind of a path with a name that a system left there or hides (`@eaDir`, `._*`, `.*`); '' for other paths."""
    for name in path.split("/"):
        if name.startswith(".") and name.strip("."):
            return "._*" if name.startswith("._") else ".*"
        if name.lower() in SYSTEM_NAMES:
            return SYSTEM_NAMES[name.lower()]
    return ""


def list_files(
    source: str, split: str = "hash", links: str = INSIDE, left_out: Counter[str] | None = None
) -> Iterator[FileEntry]:
    """All files below a local or remote folder in path order, but for system files (`system_name`).

    One folder at a time is held in memory. Links are followed where they lead inside the source, with `links`
    'anywhere' also elsewhere. A link to a file elsewhere, to nothing, or to a folder that holds the link is listed
    with the reason, as are files that cannot be read. `left_out` counts the system files by kind.

    Raises:
        DataError: the folder is missing, empty or unreadable, or a link leads to a folder elsewhere: the number of
            images behind it is unknown.
    """
    empty = True
    for entry in walk(source, "", links, left_out):
        empty = False
        yield entry
    if empty:
        missing = "has no files in it" if io.exists(source) else "does not exist"
        layout = LAYOUTS[split]
        raise DataError(f"ingest.source={source}: {missing}; expected builtin:digits or a folder laid out as {layout}")


def walk(
    source: str, folder: str = "", links: str = INSIDE, left_out: Counter[str] | None = None
) -> Iterator[FileEntry]:
    """Like `list_files` below one folder of the source ('' for all), which may be empty or missing."""
    for name, entry in list_folder(source, folder, links, left_out):
        if entry is not None:
            yield entry
        else:
            yield from walk(source, f"{folder}/{name}".lstrip("/"), links, left_out)


def list_folder(
    source: str, folder: str = "", links: str = INSIDE, left_out: Counter[str] | None = None
) -> list[tuple[str, FileEntry | None]]:
    """Names in a folder of the source with their entries, None for folders, in the order of complete paths."""
    left_out = Counter() if left_out is None else left_out
    local = io.is_local(source)
    entries = _local_entries(source, folder, links, left_out) if local else _remote_entries(source, folder, left_out)
    # "a-b" comes before "a/x" but after "a": a folder is sorted as the beginning of the paths below it.
    return sorted(entries, key=lambda pair: pair[0] if pair[1] else pair[0] + "/")


def listing_digest(entries: Iterable[FileEntry]) -> str:
    """sha256 over path, size and version of every file."""
    total = hashlib.sha256()
    for entry in entries:
        total.update(repr((entry.path, entry.size, entry.state, entry.reason)).encode())
    return total.hexdigest()


def _local_entries(
    source: str, folder: str, links: str, left_out: Counter[str]
) -> Iterator[tuple[str, FileEntry | None]]:
    root = io.local_path(source).resolve()
    try:
        with os.scandir(root / folder) as items:
            for item in items:
                kind = system_name(item.name)
                left_out.update([kind] if kind else [])
                if not kind:
                    is_folder = item.is_dir(follow_symlinks=False)
                    yield item.name, None if is_folder else _local_entry(root, Path(item.path), links)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise DataError(f"ingest.source: cannot list {root / folder} ({error.strerror}); make it readable") from error


def _local_entry(root: Path, path: Path, links: str) -> FileEntry | None:
    """The entry of a file or a link; None for a link to a folder that is followed."""
    name = path.relative_to(root).as_posix()
    shown = name.encode("utf-8", "backslashreplace").decode()
    if shown != name:
        return FileEntry(shown, 0, "", "the file name is not UTF-8")
    is_link = os.path.islink(path)
    try:
        target = path.resolve(strict=True) if is_link else path
        info = target.stat()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        return _unreadable_entry(root, path, error)
    if stat.S_ISDIR(info.st_mode):
        # Listing the link's target would come to the link again.
        if any(folder.resolve().is_relative_to(target) for folder in path.parents if folder.is_relative_to(root)):
            return FileEntry(name, 0, "", "a link to a folder that holds it")
        if not may_read(root, target, links):
            remedy = "put the folder itself there, or, to ingest it, set ingest.links=anywhere"
            raise DataError(f"ingest.source: {path} is a link to a folder outside, {target}; {remedy}")
        return None
    if is_link and not may_read(root, target, links):
        return FileEntry(name, 0, "", LEAVES)
    if not stat.S_ISREG(info.st_mode):
        return FileEntry(name, 0, "", io.NO_FILE)
    return FileEntry(name, info.st_size, str(info.st_mtime_ns))


def _unreadable_entry(root: Path, path: Path, error: Exception) -> FileEntry:
    """The entry of what cannot be looked at. Raises `DataError` for a lost link without a suffix: maybe to a folder."""
    nothing = os.path.islink(path) and isinstance(error, FileNotFoundError | RuntimeError)
    if nothing and not path.suffix:
        problem = f"is a link to nothing, {os.readlink(path)}; mount or mend what it stands for, or remove it"
        raise DataError(f"ingest.source: {path} {problem}")
    reason = getattr(error, "strerror", "") or type(error).__name__
    name = path.relative_to(root).as_posix()
    return FileEntry(name, 0, "", "a link to nothing" if nothing else f"cannot be read: {reason}")


def may_read(root: Path, target: Path, links: str) -> bool:
    """True if links below `root` may lead to `target`, a path without links.

    In Hugging Face's cache a snapshot's files are links to `blobs/` of the same repository: these count as inside.
    """
    inside = root
    for folder in (root, *root.parents):
        if folder.name == "snapshots" and (folder.parent / "blobs").is_dir():
            inside = folder.parent
    return links == ANYWHERE or target.is_relative_to(inside)


def _remote_entries(source: str, folder: str, left_out: Counter[str]) -> Iterator[tuple[str, FileEntry | None]]:
    for name, info in io.list_entries(io.join(source, folder) if folder else source):
        path = f"{folder}/{name}".lstrip("/")
        kind = system_name(name)
        left_out.update([kind] if kind else [])
        if not kind:
            is_folder = info.get("type") == "directory"
            yield name, None if is_folder else FileEntry(path, int(info.get("size") or 0), io.version_of(info))


def read_file(source: str, path: str, links: str = INSIDE) -> bytes:
    """The bytes of a listed file.

    Raises:
        DataError: the path leads out of the source, or the file is gone or unreadable since it was listed.
    """
    try:
        uri = io.join(source, path)
        if not io.is_local(source):
            return io.read_bytes(uri)
        root = io.local_path(source).resolve()
        target = Path(root, path).resolve()
        if not may_read(root, target, links):
            raise DataError(LEAVES)
        return io.read_regular(target)
    except (ValueError, RuntimeError) as error:
        raise DataError(f"a path that leaves the source: {error}") from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or type(error).__name__}") from error


def side_in_path(path: str) -> str:
    """'train', 'val' or 'test' by a word in the name of a file or, failing that, of its folders; '' without one."""
    words = (word for part in reversed(path.lower().split("/")) for word in WORD.findall(part))
    return next((SIDES[word] for word in (re.sub("[-_ ]", "", word) for word in words) if word in SIDES), "")


def split_of_side(sides: Set[str]) -> dict[str, str]:
    """The split by side: the validation part is held out, or the test part where there is none."""
    return {"train": "train", ("val" if "val" in sides else "test"): "test"}


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
        data = io.read_input(uri)
        text = data.decode("utf-8-sig")
    except OSError as error:
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
