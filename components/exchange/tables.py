"""Image tables in the forms that other tools read and write: guided-diffusion's .npz batches and folders of PNG."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import chain, islice
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


def export_table(uris: Sequence[str], target: str, classes: Sequence[str] = ()) -> int:
    """Write an image table to `target` and give the number of images: one npz where it ends in .npz, else a folder.

    The npz holds `arr_0` uint8 [N, H, W, 3] in the order of the table, as guided-diffusion's evaluator reads it, and is
    written in pieces. The folder holds `<key>.png`, below `<class>/` for images with a class.

    Raises:
        DataError: there are no images, or, for npz, their sizes differ.
    """
    from vim_core.data.image_tables import ImageTable
    from vim_core.data.images import UNLIMITED, decode, encode_png

    table = ImageTable(uris)
    if not len(table):
        raise DataError(f"{target}: there is no image to write")
    if target.endswith(NPZ):
        _write_npz(table, target)
        return len(table)
    for row in table:
        folder = _file_name(str(classes[row.label]) if classes else f"{row.label:05d}") if row.label >= 0 else ""
        data = row.image if row.image.startswith(b"\x89PNG") else encode_png(decode(row.image, UNLIMITED))
        name = f"{_file_name(row.key)}.png"
        io.write_bytes(io.join(target, folder, name) if folder else io.join(target, name), data)
    return len(table)


def import_table(source: str, folder: str, classes: Sequence[str] = (), max_pixels: int = MAX_PIXELS) -> list[str]:
    """An image table in `folder` of the images of `source`, and its files in order; the inverse of `export_table`.

    In an npz, image i gets the key `image-<i>` and no class. In a folder, every picture in path order has its path as
    key; its first folder is its class where `classes` has that name (-1 otherwise).

    Raises:
        DataError: there are no images, or one cannot be decoded; the message names it.
    """
    from vim_core.data.image_tables import write_sorted

    rows = _read_npz(source) if source.endswith(NPZ) else _read_folder(source, list(classes), max_pixels)
    names: list[str] = []
    for first in rows:
        names.append(io.join(folder, f"images-{len(names):05d}.parquet"))
        write_sorted(names[-1], chain([first], islice(rows, SHARD - 1)))
    if not names:
        raise DataError(f"{source}: no images there; expected a folder of pictures or an .npz with arr_0")
    return names


def table_files(source: str, split: str = "") -> list[str]:
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
    uris = artifact.uris(f"images/{split}-" if split else "images/")
    if not uris:
        raise DataError(f"{source}: the artifact has no images{f' of split {split}' if split else ''}")
    return uris


def table_state(source: str) -> str:
    """Return a text that changes with the content: size and version of a file, or of all files of a folder."""
    from vim_core.data import folders

    if source.endswith(NPZ):
        version = io.version(source)
        if not version:
            raise DataError(f"{source}: no such file")
        return version
    return folders.listing_digest(folders.walk(source))


def _write_npz(table: ImageTable, target: str) -> None:
    """All images as `arr_0` of one npz; raises `DataError` for unequal sizes."""
    import numpy as np

    from vim_core.data.images import UNLIMITED, decode
    from vim_core.metrics.reference import write_batch

    shape = decode(table.image(0), UNLIMITED).shape

    def blocks() -> Iterator[Any]:
        for start in range(0, len(table), BLOCK):
            images = [decode(data, UNLIMITED) for data in table.images(start, start + BLOCK)]
            other = next((image.shape for image in images if image.shape != shape), None)
            if other is not None:
                raise DataError(f"{target}: images of {other} and {shape} in one npz file; a folder takes any sizes")
            yield np.stack(images)  # uint8 [b, H, W, 3]

    with io.staged(target) as path:
        write_batch(str(path), blocks(), (len(table), *shape))


def _file_name(name: str) -> str:
    """A valid file name; a changed one gets a part of the hash, so that no two names become one."""
    valid = "".join(c if c.isalnum() or c in "-_. " else "_" for c in name).strip(". ")
    return valid if valid == name else f"{valid}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _read_npz(source: str) -> Iterator[ImageRow]:
    from vim_core.data.image_tables import ImageRow
    from vim_core.data.images import encode_png
    from vim_core.metrics.reference import read_images

    try:
        with io.local_copy(source) as path:
            for index, image in enumerate(chain.from_iterable(read_images(path, BLOCK))):
                height, width = image.shape[:2]
                yield ImageRow(f"image-{index:08d}", -1, encode_png(image), height, width, source)
    except FileNotFoundError:
        raise DataError(f"{source}: no such file") from None


def _read_folder(source: str, classes: list[str], max_pixels: int) -> Iterator[ImageRow]:
    from vim_core.data import folders
    from vim_core.data.image_tables import ImageRow
    from vim_core.data.images import image_size

    labels = {_file_name(name): label for label, name in enumerate(classes)}
    # Keys are paths; the table wants them sorted as text, which is not the order of folders.
    for path in sorted(entry.path for entry in folders.walk(source)):
        data = folders.read_file(source, path)
        try:
            height, width = image_size(data, max_pixels)
        except DataError as error:
            raise DataError(f"{source}/{path}: {error}") from None
        yield ImageRow(path, labels.get(path.split("/")[0], -1), data, height, width, source)
