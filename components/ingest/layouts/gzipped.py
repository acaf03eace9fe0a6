"""Files of many images as a whole compressed by gzip: such a stream cannot be read from its middle, so it is unpacked.

Each is unpacked once into the work folder, a block at a time, and locators point into that. A small file may claim to
hold terabytes: one that grows by more than `ingest.max_expansion` is refused before it fills the disk.
"""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Callable, Iterator
from typing import IO

from components.ingest.layouts.base import Container, Job, unpacked_name, unreadable
from components.ingest.locator import UNKNOWN, UNPACKED, Located
from vim_core.errors import DataError
from vim_core.storage import io

MAGIC = b"\x1f\x8b\x08"
SUFFIXES = (".gz", ".tgz")
HEAD = 12
BLOCK = 1 << 20
SLACK = 1 << 20
"""Bytes that a file of any size may unpack to: those of tiny images are mostly headers and padding."""


def compressed(head: bytes) -> bool:
    """Whether a file that begins so is a gzip stream."""
    return head.startswith(MAGIC)


@contextlib.contextmanager
def opened(
    job: Job, container: Container, layout: str, packed: Callable[[bytes], bool] = compressed
) -> Iterator[tuple[IO[bytes], Located]]:
    """A part as an open file of plain bytes, and an image in it of which nothing else is known.

    Whether the part is compressed is for `packed` to say of its first bytes: names do not always tell.

    Raises:
        DataError: it is damaged, or grows by more than `ingest.max_expansion`.
    """
    blank = Located("", "", container.split, "", UNKNOWN, container.path, layout, container.path)
    with io.open_read(io.join(job.config.source, container.path)) as stream:
        if not packed(stream.read(HEAD)):
            stream.seek(0)
            yield stream, blank
            return
        stream.seek(0)
        name = unpacked_name(container)
        _unpack(job, container.path, stream, io.join(job.work, name))
    with io.open_read(io.join(job.work, name)) as plain:
        yield plain, blank._replace(layout=UNPACKED, file=name)


def _unpack(job: Job, path: str, stream: IO[bytes], target: str) -> None:
    most = job.config.max_expansion
    try:
        with io.open_write(target) as made, gzip.GzipFile(fileobj=stream, mode="rb") as plain:
            while block := plain.read(BLOCK):
                if plain.tell() > SLACK + most * stream.tell():
                    raise DataError(
                        f"ingest.max_expansion={most}: {path} unpacks to more than {most} times its size; "
                        "images do not compress so well: take it away, or raise the setting"
                    )
                made.write(block)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        io.remove_tree(target)
        raise unreadable(path, f"cannot be unpacked further ({error})") from error
    except DataError:
        io.remove_tree(target)
        raise
