"""An image of the source: its key, where its bytes lie, and reading them. Bytes are never shuffled, this record is."""

from __future__ import annotations

import contextlib
import functools
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

WHOLE_FILE = -1
"""The offset of an image that is a file of its own."""

NO_LABEL = -1
"""The label of an image whose class has a name instead of a number, or that has none."""

UNPACKED = "unpacked"
WORK_LAYOUTS = ("parquet", "table", UNPACKED)
"""Layouts of images whose bytes were unpacked into the work folder."""

READ_AHEAD = 8
"""Images that are fetched ahead from a remote store; as many are in memory."""

CACHED_FOLDERS = 10_000
"""Folders of which a reader remembers the resolved path."""

OPEN_FILES = 32
"""Files that a reader keeps open."""

ILSVRC_NAME = re.compile(r"(n\d{8}_\d+|ILSVRC201\d_(?:train|val|test)_\d{8})(?:_n\d{8})?")
"""ILSVRC's own image names; some layouts append the class, which is no part of the name."""

CONTENT_KEY = re.compile(r"([0-9a-f]{16})-\d+")
"""A key by content with its occurrence."""

KEY_RULES = {
    "ilsvrc": "ILSVRC stem without its class suffix",
    "content": "sha256(bytes)[:16], then '-' and the occurrence among equal bytes of a split",
    "path": "path below ingest.source",
    "table": "key of the given image table",
    "digits": "digit-<index>",
}


class SourceImage(NamedTuple):
    """One image of the source, without its bytes, which the writer of its shard reads.

    Attributes:
        key: its key, for rule 'content' without the occurrence; '' until it is known.
        rule: the name of the rule in `KEY_RULES` that made the key.
        split: 'train', 'test', or '' where the key decides the split.
        name: name of its class, '' for none or a number only.
        label: number of its class, `NO_LABEL` for none or a name only.
        source: where it came from, for people: path below the source, member or row after '#'.
        layout: the layout it was found by, or `UNPACKED`; decides which folder `file` is relative to.
        file: the file that holds its bytes.
        offset: their first byte in the file; `WHOLE_FILE` for a file of its own.
        size: number of bytes.
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
    offset: int = WHOLE_FILE
    size: int = 0
    reason: str = ""


def ilsvrc_stem(name: str) -> str:
    """The key in the name of an ILSVRC image, '' for other names: `n01440764_10026_n01440764.JPEG` and
    `n01440764_10026.JPEG` are one image."""
    match = ILSVRC_NAME.fullmatch(name.rsplit("/", 1)[-1].partition(".")[0])
    return match[1] if match else ""


def placement_key(key: str) -> str:
    """The key without an occurrence: it decides split and shard, so that equal images are on one side."""
    match = CONTENT_KEY.fullmatch(key)
    return match[1] if match else key


def with_key(image: SourceImage, config: IngestConfig, name: str) -> SourceImage:
    """The image with the key that `ingest.keys` takes from its file name; '' where the content makes the key."""
    if image.reason or config.keys == "path":
        return image._replace(key=image.source, rule="path")
    stem = ilsvrc_stem(name) if config.keys == "auto" else ""
    return image._replace(key=stem, rule="ilsvrc" if stem else "content")


def content_key(data: bytes) -> str:
    """The key of an image by its bytes, without the occurrence."""
    return hashlib.sha256(data).hexdigest()[:16]


class ImageReader:
    """Reads the bytes of source images, within the source and the work folder. A context manager: it keeps files open.

    `work` holds what a layout unpacked; other files lie below `ingest.source`.
    """

    def __init__(self, config: IngestConfig, work: str) -> None:
        self._config, self._work = config, work
        self._open: OrderedDict[str, int] = OrderedDict()
        self._resolve = functools.lru_cache(CACHED_FOLDERS)(self._resolve_folder)

    def __enter__(self) -> ImageReader:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def map(self, function: Callable[[SourceImage], T], images: Iterable[SourceImage]) -> Iterator[T]:
        """`function` of each image, in their order; from a remote store `READ_AHEAD` are read at once."""
        if io.is_local(self._config.source) and io.is_local(self._work):
            yield from map(function, images)
            return
        pending: deque[Future[T]] = deque()
        with ThreadPoolExecutor(READ_AHEAD) as pool:
            for image in images:
                pending.append(pool.submit(function, image))
                if len(pending) > READ_AHEAD:
                    yield pending.popleft().result()
            yield from (future.result() for future in pending)

    def read(self, image: SourceImage) -> bytes:
        """The bytes of an image.

        Raises:
            DataError: they are missing, truncated, unreadable, or more than `ingest.max_bytes`.
        """
        from vim_core.data import digits

        if image.layout == "digits":
            return digits.png(int(image.file))
        if image.size > self._config.max_bytes:
            raise DataError(f"{image.size} bytes are more than the {self._config.max_bytes} of ingest.max_bytes")
        if image.offset == WHOLE_FILE:
            return self._read_file(image.file)
        uri = io.join(self._work if image.layout in WORK_LAYOUTS else self._config.source, image.file)
        try:
            if io.is_local(uri):
                data = os.pread(self._descriptor(uri), image.size, image.offset)
            else:
                data = io.read_range(uri, image.offset, image.offset + image.size)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror or type(error).__name__}") from error
        if len(data) != image.size:
            raise DataError(f"{len(data)} of {image.size} bytes are there: {image.file} is cut off")
        return data

    def _read_file(self, path: str) -> bytes:
        """A whole file; its folder is resolved once, because that costs more than reading."""
        from vim_core.data import folders

        folder, _, name = path.rpartition("/")
        inside = self._resolve(folder) if io.is_local(self._config.source) else None
        if inside is not None:
            with contextlib.suppress(OSError):  # a link, or missing: `read_file` decides
                return io.read_regular(os.path.join(inside, name), follow=False)
        return folders.read_file(self._config.source, path, self._config.links)

    def _resolve_folder(self, folder: str) -> str | None:
        """A folder of the source with all links resolved, None for one that may not be read."""
        from vim_core.data import folders

        root = io.local_path(self._config.source).resolve()
        resolved = Path(root, folder).resolve()
        return str(resolved) if folders.may_read(root, resolved, self._config.links) else None

    def _descriptor(self, uri: str) -> int:
        """An open file; the one that was used longest ago is closed for it."""
        if uri not in self._open:
            self._open[uri] = os.open(io.local_path(uri), os.O_RDONLY)
            if len(self._open) > OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(uri)
        return self._open[uri]
