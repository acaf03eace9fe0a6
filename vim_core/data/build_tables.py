"""Image tables of a folder of images, and code tables of those: in this process, for notebooks and small data.

The components `ingest` and `tokenize` do the same in parallel, with more layouts, and resume.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vim_core.data.code_files import CodeMeta, write_codes
from vim_core.data.folders import list_files, read_file, side_in_path, split_by_hash, split_of_side
from vim_core.data.image_tables import ImageRow, ImageTable, write_sorted
from vim_core.data.images import MAX_PIXELS, UNLIMITED, center_crop, decode, image_size, to_tensor
from vim_core.errors import DataError
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.pretrained import Tokenizer

SPLITS = ("train", "test")
NAMED_FILES = 3
"""Skipped files that an error names."""


@dataclass(frozen=True)
class FolderTables:
    """Image table files (paths or URIs) of both splits of a folder.

    `classes` are the names of the class folders, a label being the number in this list; without class folders it is
    empty and every label -1. `skipped` holds (path, reason) of files that are no readable images.
    """

    train: list[str]
    test: list[str]
    classes: list[str]
    skipped: list[tuple[str, str]] = field(default_factory=list)


def write_image_tables(
    source: str | Path, folder: str | Path, *, test_fraction: float = 0.1, max_pixels: int = MAX_PIXELS
) -> FolderTables:
    """Write `train.parquet` and `test.parquet` below `folder` from the images below `source` (paths or URIs).

    The class of an image is its first folder below the source; an image that lies in the source itself means that there
    are no classes. A hash of its path decides the split, as `ingest.split=hash` does. Where all first folders are
    named as splits (`train` with `val`, `valid`, `validation` or `test`), they decide it and the class is the next
    folder, as with `ingest.split=folders`. Images are stored as they are.

    Raises:
        DataError: the source is missing, or a split or a class would have no image.
    """
    entries = list(list_files(str(source)))
    sides = {name: side_in_path(name) for name in {entry.path.split("/")[0] for entry in entries}}
    by_folder = "train" in sides.values() and len(sides) > 1 and all(sides.values())
    splits = split_of_side(set(sides.values())) if by_folder else {}
    depth = 1 if by_folder else 0
    flat = any(entry.path.count("/") == depth for entry in entries)
    names = {entry.path: "" if flat else entry.path.split("/")[depth] for entry in entries}
    classes = [] if flat else sorted(set(names.values()))
    labels = {name: number for number, name in enumerate(classes)}
    skipped = [(entry.path, entry.reason) for entry in entries if entry.reason]
    seen: set[str] = set()

    def split_of(path: str) -> str:
        return splits.get(sides[path.split("/")[0]], "") if by_folder else split_by_hash(path, test_fraction)

    def rows(split: str) -> Iterator[ImageRow]:
        for entry in entries:
            if entry.reason or split_of(entry.path) != split:
                continue
            try:
                data = read_file(str(source), entry.path)
                height, width = image_size(data, max_pixels)
            except DataError as error:
                skipped.append((entry.path, str(error)))
                continue
            seen.add(names[entry.path])
            yield ImageRow(entry.path, labels.get(names[entry.path], -1), data, height, width, entry.path)

    files = {split: io.join(str(folder), f"{split}.parquet") for split in SPLITS}
    counts = {split: write_sorted(file, rows(split)) for split, file in files.items()}
    lost = [f"the {split} split" for split in SPLITS if not counts[split]] + [
        f"class {name!r}" for name in classes if name not in seen
    ]
    if lost:
        examples = "".join(f"; {path}: {reason}" for path, reason in skipped[:NAMED_FILES])
        by = "folders train and val" if by_folder else f"test_fraction={test_fraction}"
        raise DataError(
            f"{source}: no image for {', '.join(lost)}, of {len(entries)} files by {by} and {len(skipped)} "
            f"skipped{examples}"
        )
    return FolderTables([files["train"]], [files["test"]], classes, sorted(skipped))


def write_code_table(
    tokenizer: Tokenizer, images: Sequence[str], file: str | Path, *, split: str = "train", max_pixels: int = UNLIMITED
) -> str:
    """Write the codes of all images of a split, in plain view, as one code table; returns its path or URI.

    The table records the tokenizer's digest, which the prior's training checks.

    Args:
        images: image table files of the split.

    Raises:
        DataError: an image cannot be decoded, or has more than `max_pixels` pixels.
    """
    table, batch = ImageTable(list(images)), tokenizer.encode_batch
    codes = [np.empty((0, tokenizer.grid[0] * tokenizer.grid[1]), np.int64)]
    for start in range(0, len(table), batch):
        pixels = []
        for row in range(start, min(start + batch, len(table))):
            try:
                pixels.append(center_crop(decode(table.image(row), max_pixels), tokenizer.image_size))
            except DataError as error:
                raise DataError(f"image {table.keys[row]!r}: {error}") from error
        codes.append(tokenizer.encode(to_tensor(np.stack(pixels))).numpy())  # [batch, T]
    meta = CodeMeta(split, tokenizer.grid, tokenizer.vocabulary, tokenizer.digest, augmentation=[{}])
    write_codes(str(file), table.keys, table.labels, np.zeros(len(table), np.int64), np.concatenate(codes), meta)
    return str(file)
