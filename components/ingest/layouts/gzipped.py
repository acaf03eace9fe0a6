"""Files of many images compressed by gzip as a whole: such a stream cannot be read from its middle, so it is unpacked.

Each is unpacked once into the work folder, a block at a time, and its images point into the unpacked file. A small file
may expand to terabytes: one that grows by more than `ingest.max_expansion` is refused before it fills the disk.
"""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Callable, Iterator
from typing import IO

from components.ingest.layouts.base import ScanContext, SourcePart, unpacked_name, unreadable
from components.ingest.source_images import NO_LABEL, UNPACKED, SourceImage
from vim_core.errors import DataError
from vim_core.storage import io

MAGIC = b"\x1f\x8b\x08"
SUFFIXES = (".gz", ".tgz")
HEAD = 12
BLOCK = 1 << 20
FREE_BYTES = 1 << 20
"""Bytes that a file of any size may unpack to: those of tiny images are mostly headers and padding."""


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
        name = unpacked_name(part)
        _unpack(context, part.path, stream, io.join(context.work, name))
    with io.open_read(io.join(context.work, name)) as plain:
        yield plain, template._replace(layout=UNPACKED, file=name)


def _unpack(context: ScanContext, path: str, stream: IO[bytes], target: str) -> None:
    """Unpack to `target`, which is removed when that fails."""
    most = context.config.max_expansion
    try:
        with io.open_write(target) as unpacked, gzip.GzipFile(fileobj=stream, mode="rb") as plain:
            while block := plain.read(BLOCK):
                if plain.tell() > FREE_BYTES + most * stream.tell():
                    raise DataError(
                        f"ingest.max_expansion={most}: {path} unpacks to more than {most} times its size; "
                        "images do not compress that much: remove it, or raise the setting"
                    )
                unpacked.write(block)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        io.remove_tree(target)
        raise unreadable(path, f"cannot be unpacked further ({error})") from error
    except DataError:
        io.remove_tree(target)
        raise
