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

SHOWN_NAMES = 3
"""File names shown in an error."""


@dataclass(frozen=True)
class SplitList:
    """A list file: the setting that names it, its split, its lines and the sha256 of its bytes."""

    setting: str
    split: str
    lines: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class SplitAssignment:
    """`splits` has the split of every listed file by path, `missing` (line, reason) of lines that name no file."""

    splits: Mapping[str, str]
    missing: Sequence[tuple[str, str]]


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


def assign_splits(paths: Iterable[str], lists: Sequence[SplitList]) -> SplitAssignment:
    """Assign the files at `paths` (relative, with '/') to the splits of the lists.

    Raises:
        DataError: a line names several files, or a file is named twice.
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
    return SplitAssignment(splits, missing)


def _stem(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)
