"""One image where it lies: what is shuffled instead of its bytes, its key, and reading the bytes back."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from vim_core.config import IngestConfig
from vim_core.errors import DataError
from vim_core.storage import io

T = TypeVar("T")

WHOLE = -1
"""The offset of an image that is a file of its own."""

UNKNOWN = -1
"""The label of an image whose class has a name instead of a number, or that has none."""

UNPACKED = "unpacked"
IN_WORK = ("parquet", "table", UNPACKED)
"""Layouts of images whose bytes were unpacked into the work folder."""

AHEAD = 8
"""Images that are fetched ahead from a remote store; as many lie in memory."""

FOLDERS = 10_000
"""Folders whose place a reader remembers."""

OPEN_FILES = 32
"""Files that a reader keeps open."""

STEM = re.compile(r"(n\d{8}_\d+|ILSVRC201\d_(?:train|val|test)_\d{8})(?:_n\d{8})?")
"""ILSVRC's own image names; some layouts append the class, which is no part of the name."""

CONTENT = re.compile(r"([0-9a-f]{16})-\d+")
"""A key by content with its occurrence."""

KEY_RULES = {
    "ilsvrc": "ILSVRC stem without its class suffix",
    "content": "sha256(bytes)[:16], then '-' and the occurrence among equal bytes of a split",
    "path": "path below ingest.source",
    "table": "key of the given image table",
    "digits": "digit-<index>",
}


class Located(NamedTuple):
    """One image: all that is shuffled; bytes are read by whoever writes the shard.

    Attributes:
        key: its key, for rule 'content' without the occurrence; '' until it is known.
        rule: which of `KEY_RULES` made the key.
        split: 'train', 'test', or '' where the split is decided by the key.
        name: name of its class, '' where there is none or only a number.
        label: number of its class, `UNKNOWN` where there is none or only a name.
        source: where it came from, for people: path below the source, member or row after '#'.
        layout: which layout it was found by, or `UNPACKED`; says what `file` is relative to.
        file: the file that holds its bytes.
        offset: where they begin; `WHOLE` for a file of its own.
        size: how many there are.
        reason: why it cannot be used, '' where it can.
    """

    key: str
    rule: str
    split: str
    name: str
    label: int
    source: str
    layout: str
    file: str
    offset: int = WHOLE
    size: int = 0
    reason: str = ""


def ilsvrc_stem(name: str) -> str:
    """The key in the name of an ILSVRC image, '' for other names: `n01440764_10026_n01440764.JPEG` and
    `n01440764_10026.JPEG` are one image."""
    found = STEM.fullmatch(name.rsplit("/", 1)[-1].partition(".")[0])
    return found[1] if found else ""


def placing_key(key: str) -> str:
    """What decides split and shard: the key without an occurrence, so that equal images are on one side."""
    found = CONTENT.fullmatch(key)
    return found[1] if found else key


def keyed(image: Located, config: IngestConfig, name: str) -> Located:
    """The image with the key that its file name gives, if it gives one by `ingest.keys`."""
    if image.reason or config.keys == "path":
        return image._replace(key=image.source, rule="path")
    stem = ilsvrc_stem(name) if config.keys == "auto" else ""
    return image._replace(key=stem, rule="ilsvrc" if stem else "content")


def content_key(data: bytes) -> str:
    """The key of an image without a name of its own."""
    return hashlib.sha256(data).hexdigest()[:16]


class Reader:
    """Reads the bytes of located images.

    `work` holds what a layout unpacked; other files lie below `ingest.source`.
    """

    def __init__(self, config: IngestConfig, work: str) -> None:
        self._config, self._work = config, work
        self._open: OrderedDict[str, int] = OrderedDict()
        self._folders: dict[str, str | None] = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def each(self, images: Iterable[Located], act: Callable[[Located], T]) -> Iterator[T]:
        """What `act` makes of each image, in their order; where reading takes requests, `AHEAD` are under way."""
        if io.is_local(self._config.source) and io.is_local(self._work):
            yield from map(act, images)
            return
        waiting: deque[Future[T]] = deque()
        with ThreadPoolExecutor(AHEAD) as pool:
            for image in images:
                waiting.append(pool.submit(act, image))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            yield from (future.result() for future in waiting)

    def read(self, image: Located) -> bytes:
        """The bytes of an image.

        Raises:
            DataError: they are gone, cut off, unreadable, or more than `ingest.max_bytes`.
        """
        from vim_core.data import digits

        if image.layout == "digits":
            return digits.png(int(image.file))
        if image.size > self._config.max_bytes:
            raise DataError(f"{image.size} bytes are more than the {self._config.max_bytes} of ingest.max_bytes")
        if image.offset == WHOLE:
            return self._whole(image.file)
        base = self._work if image.layout in IN_WORK else self._config.source
        data = self._range(io.join(base, image.file), image.offset, image.size)
        if len(data) != image.size:
            raise DataError(f"{len(data)} of {image.size} bytes are there: {image.file} is cut off")
        return data

    def _whole(self, path: str) -> bytes:
        """A file of its own; where its folder leads to is found out once, because that costs more than reading."""
        from vim_core.data import folders

        inside = self._folder(path.rpartition("/")[0]) if io.is_local(self._config.source) else None
        if inside is not None:
            with contextlib.suppress(OSError):  # a link, or gone: that is for `read` to judge
                place = os.open(os.path.join(inside, path.rpartition("/")[2]), os.O_RDONLY | os.O_NOFOLLOW)
                with open(place, "rb", buffering=0) as stream:
                    return stream.readall()
        return folders.read_file(self._config.source, path)

    def _folder(self, path: str) -> str | None:
        """A folder of the source with all links resolved, None for one that is not inside it."""
        if path not in self._folders:
            if len(self._folders) >= FOLDERS:
                self._folders.clear()
            root = io.local_path(self._config.source).resolve()
            found = Path(root, path).resolve()
            self._folders[path] = str(found) if found.is_relative_to(root) else None
        return self._folders[path]

    def _range(self, uri: str, offset: int, size: int) -> bytes:
        try:
            if not io.is_local(uri):
                return io.read_range(uri, offset, offset + size)
            return os.pread(self._descriptor(uri), size, offset)
        except (FileNotFoundError, PermissionError) as error:
            raise DataError(f"cannot be read: {error.strerror or type(error).__name__}") from error

    def _descriptor(self, uri: str) -> int:
        if uri not in self._open:
            self._open[uri] = os.open(io.local_path(uri), os.O_RDONLY)
            if len(self._open) > OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(uri)
        return self._open[uri]
