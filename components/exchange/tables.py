"""Image tables in the forms that other tools read and write: guided-diffusion's .npz batches and folders of PNG."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from vim_core.errors import DataError
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.data.image_tables import ImageRow, ImageTable

BLOCK = 64
"""Images in memory at once."""

SHARD = 4096
"""Images of one file of an imported table."""

MAX_PIXELS = 100_000_000
NPZ = ".npz"


def export_table(uris: Sequence[str], target: str, classes: Sequence[str] = (), max_pixels: int = MAX_PIXELS) -> int:
    """Write an image table to `target` and give the number of images: one npz where it ends in .npz, else a folder.

    The npz holds `arr_0` uint8 [N, H, W, 3] in the order of the table, as guided-diffusion's evaluator reads it, and is
    written in pieces. The folder holds `<key>.png`, below `<class>/` for images with a class.

    Raises:
        DataError: there are no images, or, for npz, their sizes differ.
    """
    from vim_core.data.image_tables import ImageTable

    table = ImageTable(uris)
    if not len(table):
        raise DataError(f"{target}: there is no image to write")
    return write_npz(table, target, max_pixels) if target.endswith(NPZ) else _write_folder(table, target, classes)


def import_table(source: str, folder: str, classes: Sequence[str] = (), max_pixels: int = MAX_PIXELS) -> list[str]:
    """An image table in `folder` of the images of `source`, and its files in order; the inverse of `export_table`.

    Of an npz, image i becomes key `image-<i>` without a class. Of a folder, every picture in path order has its path as
    key; its first folder is its class where `classes` has that name (-1 otherwise).

    Raises:
        DataError: there is nothing there, or an image cannot be decoded; the message names it.
    """
    from vim_core.data.image_tables import write_sorted

    rows = _from_npz(source) if source.endswith(NPZ) else _from_folder(source, list(classes), max_pixels)
    names: list[str] = []
    first = next(rows, None)
    while first is not None:
        names.append(io.join(folder, f"images-{len(names):05d}.parquet"))
        write_sorted(names[-1], _ahead(first, islice(rows, SHARD - 1)))
        first = next(rows, None)
    if not names:
        raise DataError(f"{source}: no images there; expected a folder of pictures or an .npz with arr_0")
    return names


def files_of(source: str, split: str = "") -> list[str]:
    """The files of an image table: one .parquet, or those that an artifact's manifest lists for a split ('' for all).

    Raises:
        DataError: the artifact has no images, or none of this split.
    """
    from components.artifacts import store

    if source.endswith(".parquet"):
        return [source]
    artifact = store.read(source)
    if artifact is None:
        raise DataError(f"{source}: no artifact there (no manifest.json), and not a .parquet file")
    found = artifact.uris(f"images/{split}-" if split else "images/")
    if not found:
        raise DataError(f"{source}: the artifact has no images{f' of split {split}' if split else ''}")
    return found


def state_of(source: str) -> str:
    """A text that changes with the content: of a file its size and version, of a folder those of all its files."""
    from vim_core.data.folders import listing_digest
    from vim_core.data.folders import walk as below

    if source.endswith(NPZ):
        found = io.version(source)
        if not found:
            raise DataError(f"{source}: no such file")
        return found
    return listing_digest(below(source))


def write_npz(table: ImageTable, target: str, max_pixels: int = MAX_PIXELS) -> int:
    """All images as `arr_0` of one npz; raises `DataError` for none and for unequal sizes."""
    from vim_core.data.images import decode
    from vim_core.metrics.reference import write_batch

    shape = decode(table.image(0), max_pixels).shape
    with io.staged(target) as path:
        write_batch(str(path), _blocks(table, shape, target, max_pixels), (len(table), *shape))
    return len(table)


def _blocks(table: ImageTable, shape: tuple[int, ...], target: str, max_pixels: int) -> Iterator[Any]:
    import numpy as np

    from vim_core.data.images import decode

    for start in range(0, len(table), BLOCK):
        images = [decode(data, max_pixels) for data in table.images(start, start + BLOCK)]
        odd = next((image.shape for image in images if image.shape != shape), None)
        if odd is not None:
            raise DataError(f"{target}: images of {odd} and {shape} in one npz file; a folder takes any sizes")
        yield np.stack(images)


def _write_folder(table: ImageTable, target: str, classes: Sequence[str]) -> int:
    from vim_core.data.images import decode, encode_png

    for row in table:
        below = _plain(str(classes[row.label]) if classes else f"{row.label:05d}") if row.label >= 0 else ""
        data = row.image if row.image.startswith(b"\x89PNG") else encode_png(decode(row.image))
        name = f"{_plain(row.key)}.png"
        io.write_bytes(io.join(target, below, name) if below else io.join(target, name), data)
    return len(table)


def _plain(name: str) -> str:
    """A file name; one that would not do as it is gets some of its hash, so that no two become one."""
    kept = "".join(c if c.isalnum() or c in "-_. " else "_" for c in name).strip(". ")
    return kept if kept == name else f"{kept}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _from_npz(source: str) -> Iterator[ImageRow]:
    from vim_core.data.image_tables import ImageRow
    from vim_core.data.images import encode_png
    from vim_core.metrics.reference import read_images

    place = 0
    try:
        with io.local_copy(source) as path:
            for block in read_images(path, BLOCK):
                for image in block:
                    height, width = image.shape[:2]
                    yield ImageRow(f"image-{place:08d}", -1, encode_png(image), height, width, source)
                    place += 1
    except FileNotFoundError:
        raise DataError(f"{source}: no such file") from None


def _from_folder(source: str, classes: list[str], max_pixels: int) -> Iterator[ImageRow]:
    from vim_core.data import folders
    from vim_core.data.image_tables import ImageRow
    from vim_core.data.images import image_size

    number = {_plain(name): index for index, name in enumerate(classes)}
    # keys are paths; the table wants them sorted as text, which is not the order of folders
    for path in sorted(entry.path for entry in folders.walk(source)):
        data = folders.read_file(source, path)
        try:
            height, width = image_size(data, max_pixels)
        except DataError as error:
            raise DataError(f"{source}/{path}: {error}") from None
        yield ImageRow(path, number.get(path.split("/")[0], -1), data, height, width, source)


def _ahead(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest
