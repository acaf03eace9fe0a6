"""Accepted images as tables of their own, shard by shard; and some of them beside rejected ones as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vim_core.storage import io

if TYPE_CHECKING:
    from components.select.scores import Scores
    from vim_core.data.image_tables import ImageTable

SHOWN, MOST_ROWS = 4, 10
"""Accepted and rejected images of each class in the picture, and classes in it at most."""


@dataclass(frozen=True)
class TableShard:
    """A shard of accepted images: its file, name in the artifact, tables of candidates, and rows in order of keys."""

    result: str
    name: str
    images: tuple[str, ...]
    rows: tuple[int, ...]


def split_name(rate: float) -> str:
    """The split of one rate, such as `accepted-0.5`."""
    return f"accepted-{float(rate)}"


def table_shards(folder: str, images: list[str], rate: float, rows: NDArray[np.int64], shards: int) -> list[TableShard]:
    """The shards of the table of one rate: contiguous parts, none empty."""
    shards = min(shards, len(rows))
    bounds = [len(rows) * shard // shards for shard in range(shards + 1)]
    parts = []
    for shard, (first, last) in enumerate(pairwise(bounds)):
        name = f"images/{split_name(rate)}-{shard:05d}-of-{shards:05d}.parquet"
        parts.append(TableShard(io.join(folder, name), name, tuple(images), tuple(rows[first:last].tolist())))
    return parts


def finished(shard: TableShard) -> bool:
    """True if an earlier attempt wrote this shard."""
    return io.exists(shard.result)


def write(shard: TableShard) -> str:
    """Copy the rows into a table of their own."""
    from vim_core.data.image_tables import ImageTable, write_sorted

    table = ImageTable(shard.images)
    write_sorted(shard.result, (table.row(row) for row in shard.rows))
    return shard.name


def picture(table: ImageTable, scores: Scores, pool: NDArray[np.int64], max_pixels: int) -> bytes:
    """A PNG of one row a class: the candidates with the best scores, a gap, and those with the worst."""
    from vim_core.data.images import center_crop, decode, grid_png, to_tensor

    lines = []
    for number in np.unique(scores.labels[pool])[:MOST_ROWS]:
        rows = pool[scores.labels[pool] == number]
        lines.append(rows[np.argsort(-scores.scores[rows], kind="stable")])
    shown = min([SHOWN, *(len(rows) // 2 for rows in lines)])
    grid = [[*rows[:shown], -1, *rows[len(rows) - shown :]] for rows in lines]  # -1 is the gap
    decoded = {row: decode(table.image(int(row)), max_pixels) for line in grid for row in line if row >= 0}
    size = min((min(image.shape[:2]) for image in decoded.values()), default=1)
    blank = np.full((size, size, 3), 255, np.uint8)
    cells = [blank if row < 0 else center_crop(decoded[row], size) for line in grid for row in line]
    return grid_png(to_tensor(np.stack(cells)), 2 * shown + 1)  # [N, 3, S, S]
