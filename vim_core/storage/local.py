"""Local files on file systems of every kind."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from vim_core.errors import StorageError

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)
"""What file systems without hard links answer, such as exFAT, network shares and mounted buckets."""
AT_FDCWD, RENAME_NOREPLACE = -100, 1


def name_exclusively(temporary: Path, target: Path) -> None:
    """Give a finished file its name in one act unless that is taken: as a hard link, or by a rename without one.

    Raises:
        FileExistsError: the name is taken.
        StorageError: the file system can do neither.
    """
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        _rename_exclusively(temporary, target)


def _rename_exclusively(temporary: Path, target: Path) -> None:
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    number = errno.ENOSYS
    if rename is not None:
        names = (os.fsencode(temporary), os.fsencode(target))
        if rename(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
    if number == errno.EEXIST:
        raise FileExistsError(number, os.strerror(number), os.fspath(target))
    if number not in (*NO_LINKS, errno.ENOTTY):
        raise OSError(number, os.strerror(number), os.fspath(target))
    raise StorageError(
        f"{target.parent}: its file system has neither hard links nor exclusive renames, so that two processes could "
        "write one artifact; choose another one by run.root, such as a local disk or gs://bucket/folder"
    )


@contextlib.contextmanager
def hidden_beside(target: Path) -> Iterator[Path]:
    """A path for a new hidden file beside the target, whose folder is made; the file is removed unless renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Write a file or the entries of a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
