"""Archives of images: tars are walked in place, streams compressed by gzip are unpacked once.

A gzip stream cannot be read from its middle, so it is unpacked into the work folder, a block at a time, and its images
point into the unpacked file. A small file may expand to terabytes: one that grows by more than `ingest.max_expansion`
is refused before it fills the disk.
"""

from __future__ import annotations

import contextlib
import gzip
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

from components.ingest.layouts.base import ScanContext, SourcePart, unpacked_name, unreadable
from components.ingest.source_images import NO_LABEL, UNPACKED, SourceImage
from vim_core.data import folders
from vim_core.errors import DataError
from vim_core.storage import io

MAGIC = b"\x1f\x8b\x08"
SUFFIXES = (".gz", ".tgz")
HEAD = 12
BLOCK = 1 << 20
FREE_BYTES = 1 << 20
"""Bytes that a file of any size may unpack to: those of tiny images are mostly headers and padding."""


class Member(NamedTuple):
    """A file in a tar: its name, the offset and number of its bytes, the reason why it cannot be used."""

    name: str
    offset: int
    size: int
    reason: str = ""


def walk(
    path: str, stream: IO[bytes], start: int = 0, end: int = 0, left_out: Counter[str] | None = None
) -> Iterator[Member]:
    """The files of the tar that lies between `start` and `end` (0: the end of the file) of an open file, in its order.

    Tars that follow behind its end, joined by `cat`, are read too. Links and devices are named with a reason. With
    `left_out`, files of the system (`folders.system_name`) are left out and counted there.

    Raises:
        DataError: the tar breaks off, is damaged, or is followed by something else.
    """
    position = start
    while True:
        began = position
        for info in _tar_headers(path, stream, began):
            position = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            # Names that are not UTF-8 could not be written into a table.
            name = info.name.encode("utf-8", "backslashreplace").decode()
            if end and info.offset_data + info.size > end:
                raise unreadable(path, f"the tar inside the tar is cut off in {name}")
            if left_out is not None and not info.isdir() and (kind := folders.system_name(name)):
                left_out[kind] += 1
            elif info.isfile():
                yield Member(name, info.offset_data, info.size)
            elif not info.isdir():
                yield Member(name, 0, 0, "a link or a device, not a file of its own")
        following = _next_block(stream, position, end)
        if following < 0:
            return
        if following in (position, began):
            # tarfile takes a damaged header for the end.
            raise unreadable(path, f"is damaged at byte {following}")
        position = following


def _tar_headers(path: str, stream: IO[bytes], start: int) -> Iterator[tarfile.TarInfo]:
    """The members of one tar. Raises `DataError` where it breaks off."""
    stream.seek(start)
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else every header stays in memory
                yield info
    except tarfile.TarError as error:
        raise unreadable(path, f"cannot be read further ({error})") from error


def _next_block(stream: IO[bytes], position: int, end: int) -> int:
    """The position of the first block with anything but zeros from `position` up to `end`; -1 without one."""
    stream.seek(position)
    while data := stream.read(max(0, min(BLOCK, end - position)) if end else BLOCK):
        zeros = len(data) - len(data.lstrip(b"\0"))
        if zeros < len(data):
            return position + zeros // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        position += len(data)
    return -1


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
        for member in walk(uri, stream, left_out=Counter()):
            return member.name
    raise unreadable(uri, "a tar without files in it")


def is_gzip(head: bytes) -> bool:
    """True for the first bytes of a gzip stream."""
    return head.startswith(MAGIC)


@contextlib.contextmanager
def open_plain(
    context: ScanContext, part: SourcePart, layout: str, compressed: Callable[[bytes], bool] = is_gzip
) -> Iterator[tuple[IO[bytes], SourceImage]]:
    """A part as an open file of plain bytes, and the template of an image in it.

    `compressed` decides by the part's first `HEAD` bytes, because file names are not reliable.

    Raises:
        DataError: it is damaged, or grows by more than `ingest.max_expansion`.
    """
    template = SourceImage("", "", part.split, "", NO_LABEL, part.path, layout, part.path)
    with io.open_read(io.join(context.config.source, part.path)) as stream:
        head = stream.read(HEAD)
        stream.seek(0)
        if not compressed(head):
            yield stream, template
            return
        name, most = unpacked_name(part), context.config.max_expansion
        target = io.join(context.work, name)
        try:
            with io.open_write(target) as unpacked, gzip.GzipFile(fileobj=stream, mode="rb") as plain:
                while block := plain.read(BLOCK):
                    if plain.tell() > FREE_BYTES + most * stream.tell():
                        raise DataError(
                            f"ingest.max_expansion={most}: {part.path} unpacks to more than {most} times its size; "
                            "images do not compress that much: remove it, or raise the setting"
                        )
                    unpacked.write(block)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            io.remove_tree(target)
            raise unreadable(part.path, f"cannot be unpacked further ({error})") from error
        except DataError:
            io.remove_tree(target)
            raise
    with io.open_read(target) as opened:
        yield opened, template._replace(layout=UNPACKED, file=name)
