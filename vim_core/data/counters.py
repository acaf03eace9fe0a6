"""Counts of the image feed over all processes of a training; nothing is counted before `start`.

Every process adds to a file of its own, so that those that load images for a worker are counted, too.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from pathlib import Path

NAMES = ("images_read", "bytes_read", "images_kept", "images_decoded", "images_used")
"""Images in the row groups that were read and their encoded bytes; those that wait for their own use, in this step or a
later one; images decoded; views that went into batches."""

_LAYOUT = struct.Struct(f"<{len(NAMES)}q")
_folder: Path | None = None
_own: tuple[int, mmap.mmap] | None = None
_adding = threading.Lock()


def start(folder: Path) -> None:
    """Count from now on, here and in processes forked from here, in files of this local folder."""
    global _folder, _own
    folder.mkdir(parents=True, exist_ok=True)
    _folder, _own = folder, None


def stop() -> None:
    """Count no more in this process."""
    global _folder, _own
    _folder, _own = None, None


def add(
    *, images_read: int = 0, bytes_read: int = 0, images_kept: int = 0, images_decoded: int = 0, images_used: int = 0
) -> None:
    """Add to this process's counts, if `start` was called."""
    global _own
    if _folder is None:
        return
    with _adding:  # a training reads and decodes in two threads
        _add(images_read, bytes_read, images_kept, images_decoded, images_used)


def _add(*more: int) -> None:
    global _own
    assert _folder is not None
    if _own is None or _own[0] != os.getpid():
        with (_folder / f"{os.getpid()}.counts").open("w+b") as file:
            file.truncate(_LAYOUT.size)
            _own = os.getpid(), mmap.mmap(file.fileno(), _LAYOUT.size)
    memory = _own[1]
    _LAYOUT.pack_into(memory, 0, *(old + new for old, new in zip(_LAYOUT.unpack_from(memory), more, strict=True)))


def totals(folder: Path) -> dict[str, int]:
    """The sums over all processes that counted in the folder, by the names in `NAMES`."""
    counts = [_LAYOUT.unpack(path.read_bytes()) for path in folder.glob("*.counts")]
    return {name: sum(each[index] for each in counts) for index, name in enumerate(NAMES)}
