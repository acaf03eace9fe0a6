"""List files that say which images are for training and which are held out, such as taming-transformers' splits.

A list is a text file (UTF-8) with one image a line: its path below the source, or its stem. A line names a file

1. whose path below the source is the line;
2. else whose path is the line but for the suffix: `imgHQ00000.npy` and `imgHQ00000` both name `imgHQ00000.png`;
3. else, if the line has no folder in it, whose own name is the line but for the suffix, in whatever folder it lies:
   `00000.png` names `00000/00000.png`.

A line that names several files by the same rule is refused, and so is a file that two lines name.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vim_core.errors import DataError
from vim_core.storage import io

MANY = 3
"""How many names an error gives."""


@dataclass(frozen=True)
class SplitList:
    """A list file: the setting that named it, its split, its lines and the sha256 of its bytes."""

    setting: str
    split: str
    lines: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class SplitAssignment:
    """Split by path of every listed file that is there, and (line, reason) of the lines that name none."""

    splits: Mapping[str, str]
    missing: Sequence[tuple[str, str]]


def read_list(uri: str, setting: str, split: str) -> SplitList:
    """Read a list file from a path or URI; empty lines and spaces around a name count for nothing.

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


def assign_splits(paths: Iterable[str], lists: Sequence[SplitList]) -> SplitAssignment:
    """Which of the files at `paths` (relative, with '/') belong to which split.

    Raises:
        DataError: a line names several files, or a file is named twice.
    """
    known = _Index(paths)
    splits: dict[str, str] = {}
    named: dict[str, str] = {}
    missing: list[tuple[str, str]] = []
    for each in lists:
        for line in each.lines:
            path = known.find(line, each.setting)
            if path is None:
                missing.append((line, f"listed in {each.setting} but not below the source"))
                continue
            here = f"{each.setting} ({line})"
            if path in named:
                raise DataError(f"{here} and {named[path]} both name {path}: name every image once, in one list")
            splits[path], named[path] = each.split, here
    return SplitAssignment(splits, missing)


class _Index:
    """Files by path, by path without suffix and by name without suffix."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = set(paths)
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        self.by_name: dict[str, list[str]] = defaultdict(list)
        for path in sorted(self.paths):
            self.by_stem[_stem(path)].append(path)
            self.by_name[_stem(path).rsplit("/", 1)[-1]].append(path)

    def find(self, line: str, setting: str) -> str | None:
        """The file that a line names, or None."""
        if line in self.paths:
            return line
        # A stem may itself hold a dot ("v1.5-cat"), so the whole line comes first.
        found = self.by_stem.get(line) or self.by_stem.get(_stem(line), [])
        if not found and "/" not in line:
            found = self.by_name.get(line) or self.by_name.get(_stem(line), [])
        if len(found) > 1:
            names = ", ".join(found[:MANY]) + (", …" if len(found) > MANY else "")
            raise DataError(f"{setting}: {line!r} names {len(found)} files ({names}); write the path of one of them")
        return found[0] if found else None


def _stem(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)
