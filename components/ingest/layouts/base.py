"""What every layout shares: the parts of a source that are looked through at once, and which side a part is on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from components.ingest.labels import ClassList
from components.ingest.locator import Located
from vim_core.config import IngestConfig
from vim_core.data.folders import FileEntry
from vim_core.errors import DataError

SIDES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
WORD = re.compile(r"[a-z]+")


class Container(NamedTuple):
    """A part of the source that one worker looks through: a folder, an archive, a table file.

    Attributes:
        path: where it lies below the source.
        state: changes with its content; '' where that is not known before it is listed.
        split: 'train', 'test', or '' where the key decides.
        name: the class of all that is in it, '' where the images say.
        kind: what a layout needs to know beside.
        offset: where it begins in the file.
        end: where it ends; 0 means with the file.
    """

    path: str
    state: str = ""
    split: str = ""
    name: str = ""
    kind: str = ""
    offset: int = 0
    end: int = 0


@dataclass(frozen=True)
class Job:
    """What a layout may use: settings, the work folder, class list and ground truth where there are any."""

    config: IngestConfig
    work: str
    classes: ClassList | None = None
    truth: str = ""


@dataclass
class Found:
    """What a layout found at the source: the parts to look through, and files that it leaves out.

    `classes` are the source's own class names in label order, where it has them. `together` parts are looked through by
    one worker: more than one where that takes little, because each costs files in the work folder.
    """

    containers: list[Container]
    left_out: list[str] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    together: int = 1

    def groups(self) -> list[list[Container]]:
        """The parts by the worker that looks through them."""
        return [self.containers[at : at + self.together] for at in range(0, len(self.containers), self.together)]


class Layout(Protocol):
    """A module that knows one way in which images are kept."""

    @staticmethod
    def find(job: Job) -> Found:
        """The parts of the source; few, and found without reading images."""

    @staticmethod
    def scan(job: Job, container: Container) -> Iterator[Located]:
        """Every image of a part as `Located`; bytes are left where they are."""


def unpacked_name(container: Container) -> str:
    """Where in the work folder the bytes of a part lie that cannot be read from its own file."""
    return f"unpacked/{hashlib.sha256(container.state.encode()).hexdigest()[:20]}.bin"


def side_of(path: str) -> str:
    """'train', 'val' or 'test' by a word in the name of a file or, failing that, of its folders; '' without one."""
    for part in reversed(path.lower().split("/")):
        for word in WORD.findall(part):
            if word in SIDES:
                return SIDES[word]
    return ""


def by_side(config: IngestConfig, files: Iterable[FileEntry]) -> tuple[list[tuple[FileEntry, str]], list[str]]:
    """Files with their split, and those that are on neither side of `ingest.split=folders`.

    Held out are validation files, or test files where there are none. Raises `DataError` for a file that is no file.
    """
    files = list(files)
    for file in files:
        if file.reason:
            raise unreadable(file.path, file.reason)
    if config.split != "folders":
        return [(file, "") for file in files], []
    sides = {file.path: side_of(file.path) for file in files}
    splits = {"train": "train", ("val" if "val" in sides.values() else "test"): "test"}
    taken = [(file, splits[sides[file.path]]) for file in files if sides[file.path] in splits]
    return taken, [file.path for file in files if sides[file.path] not in splits]


def unreadable(path: str, reason: str) -> DataError:
    """The refusal of a file of many images that cannot be read to its end: how many would be lost nobody knows."""
    return DataError(f"ingest.source: {path}: {reason}; fetch it again, or take it away")


def state_of(entry: FileEntry) -> str:
    """A text that changes with the content of a file."""
    return repr((entry.path, entry.size, entry.state, entry.reason))
