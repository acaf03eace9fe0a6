"""The three stages of tokenizing a shard: decode, encode, write. No engine is named here: Beam and Ray run these same.

Every batch has the tokenizer's `encode_batch` images, but a shard's last one, which the tokenizer pads (contract 7).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vim_core.config import AugmentConfig
from vim_core.data.augment import augmented
from vim_core.data.code_tables import CodeMeta, write_codes
from vim_core.data.image_tables import ImageTable
from vim_core.data.images import Pixels, decode, square, to_tensor
from vim_core.errors import DataError
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.models.vit_vqgan import Tokenizer


@dataclass(frozen=True)
class Plan:
    """What all shards of a run have in common: the tokenizer, where it runs, and the views of each split."""

    weights: str
    config: str
    device: str
    threads: int
    image_size: int
    encode_batch: int
    metas: dict[str, CodeMeta]
    seed: int
    augment: AugmentConfig
    max_pixels: int


@dataclass(frozen=True)
class Shard:
    """One file of images, and the file of codes that comes of it."""

    name: str
    split: str
    images: str
    result: str


@dataclass(frozen=True)
class Batch:
    """Prepared images [b, S, S, 3] of a shard: rows of (key, label, view), and which of how many batches this is."""

    shard: Shard
    index: int
    batches: int
    keys: list[str]
    labels: list[int]
    views: list[int]
    pixels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Piece:
    """A batch with codes [b, T] in the place of its images."""

    shard: Shard
    index: int
    batches: int
    keys: list[str]
    labels: list[int]
    views: list[int]
    codes: NDArray[Any]


def decoded(plan: Plan, shard: Shard) -> Iterator[Batch]:
    """All views of a shard's images, batch by batch; each image is decoded once, and an empty shard is one batch.

    Raises:
        DataError: an image cannot be decoded, or the file is missing or damaged.
    """
    table = ImageTable([shard.images])
    total = len(table) * plan.metas[shard.split].views
    batches = max(1, -(-total // plan.encode_batch))
    rows: list[tuple[str, int, int, Pixels]] = []
    index = 0
    for row in _views(plan, shard, table):
        rows.append(row)
        if len(rows) == plan.encode_batch:
            yield _batch(plan, shard, index, batches, rows)
            index, rows = index + 1, []
    if rows or not total:
        yield _batch(plan, shard, index, batches, rows)


def encoded(plan: Plan, batch: Batch, tokenizer: Tokenizer) -> Piece:
    """The batch through the tokenizer's one encode."""
    codes = tokenizer.encode(to_tensor(batch.pixels)).numpy()
    known = batch.shard, batch.index, batch.batches, batch.keys, batch.labels, batch.views
    return Piece(*known, codes.astype(np.uint16 if tokenizer.vocabulary <= 1 << 16 else np.uint32))


class Assembly:
    """The pieces of a shard until all are there; they may come in any order."""

    def __init__(self, first: Piece) -> None:
        self.shard = first.shard
        self.batches = first.batches
        self._pieces: dict[int, Piece] = {}

    def add(self, piece: Piece) -> bool:
        """Take one piece, whether or not it was there before; True when the shard is whole."""
        self._pieces[piece.index] = piece
        return len(self._pieces) == self.batches

    def write(self, plan: Plan) -> str:
        """Write the shard's code file as one atomic act, and give the shard's name."""
        pieces = [self._pieces[index] for index in range(self.batches)]
        write_codes(
            self.shard.result,
            keys=[key for piece in pieces for key in piece.keys],
            labels=np.array([label for piece in pieces for label in piece.labels], dtype=np.int64),
            views=np.array([view for piece in pieces for view in piece.views], dtype=np.int64),
            codes=np.concatenate([piece.codes for piece in pieces]),
            meta=plan.metas[self.shard.split],
        )
        return self.shard.name


def tokenized(plan: Plan, shard: Shard, tokenizer: Tokenizer) -> str:
    """All three stages for one shard, which is left as it is where it is finished; its name."""
    if finished(shard):
        return shard.name
    assembly: Assembly | None = None
    for batch in decoded(plan, shard):
        piece = encoded(plan, batch, tokenizer)
        assembly = assembly or Assembly(piece)
        if assembly.add(piece):
            return assembly.write(plan)
    raise DataError(f"{shard.images}: changed while it was read; run ingest again with --force")


def finished(shard: Shard) -> bool:
    """Whether an earlier attempt wrote this shard; a file appears under its name only when it is whole."""
    return io.exists(shard.result)


def prepared(image: Pixels, plan: Plan, key: str, view: int) -> Pixels:
    """What is encoded: the centre square for view 0, else an augmentation keyed by (seed, key, view)."""
    if view == 0:
        return square(image, plan.image_size)
    return augmented(image, plan.image_size, plan.augment, (plan.seed, key, view))


def _views(plan: Plan, shard: Shard, table: ImageTable) -> Iterator[tuple[str, int, int, Pixels]]:
    views = plan.metas[shard.split].views
    for row, key in enumerate(table.keys):
        try:
            image = decode(table.image(row), plan.max_pixels)
        except DataError as error:
            raise DataError(f"{shard.images}: image {key!r}: {error}") from error
        for view in range(views):
            yield key, int(table.labels[row]), view, prepared(image, plan, key, view)


def _batch(plan: Plan, shard: Shard, index: int, batches: int, rows: list[tuple[str, int, int, Pixels]]) -> Batch:
    size = plan.image_size
    pixels = np.stack([row[3] for row in rows]) if rows else np.empty((0, size, size, 3), np.uint8)
    keys, labels, views = ([row[column] for row in rows] for column in range(3))
    return Batch(shard, index, batches, keys, labels, views, pixels)  # type: ignore[arg-type]
