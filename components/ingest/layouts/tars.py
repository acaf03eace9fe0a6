"""Walking a tar, or a tar inside a tar, without unpacking it: names and positions of the files."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple

from components.ingest.layouts.base import unreadable
from vim_core.storage import io


class Member(NamedTuple):
    """A file in a tar: its name, the offset and number of its bytes, the reason why it cannot be used."""

    name: str
    offset: int
    size: int
    reason: str = ""


def walk(path: str, stream: IO[bytes], start: int = 0, end: int = 0) -> Iterator[Member]:
    """The files of the tar that lies between `start` and `end` (0: the end of the file) of an open file, in its order.

    Links and devices are named with a reason.

    Raises:
        DataError: the tar breaks off or is damaged.
    """
    stream.seek(start)
    position = start
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else every header stays in memory
                position = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                # Names that are not UTF-8 could not be written into a table.
                name = info.name.encode("utf-8", "backslashreplace").decode()
                if end and info.offset_data + info.size > end:
                    raise unreadable(path, f"the tar inside the tar is cut off in {name}")
                if info.isfile():
                    yield Member(name, info.offset_data, info.size)
                elif not info.isdir():
                    yield Member(name, 0, 0, "a link or a device, not a file of its own")
    except tarfile.TarError as error:
        raise unreadable(path, f"cannot be read further ({error})") from error
    stream.seek(position)
    if (end == 0 or position < end) and stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
        # tarfile takes a damaged header for the end.
        raise unreadable(path, f"is damaged at byte {position}")


def read(stream: IO[bytes], member: Member) -> bytes:
    """The bytes of a small member, such as a label; the position of the stream stays, so that a walk can go on."""
    position = stream.tell()
    stream.seek(member.offset)
    data = stream.read(member.size)
    stream.seek(position)
    return data


def first_name(uri: str) -> str:
    """The name of the first file in a tar. Raises `DataError` where there is none."""
    with io.open_read(uri) as stream:
        for member in walk(uri, stream):
            return member.name
    raise unreadable(uri, "a tar without files in it")
