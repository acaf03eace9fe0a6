"""Accepted images as tables of their own, shard by shard; and some of them beside rejected ones as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vim_core.storage import io

if TYPE_CHECKING:
    from torch import Tensor

    from components.select.scores import Scores
    from vim_core.data.image_tables import ImageTable

SHOWN, MOST_ROWS = 4, 10
"""The picture shows so many accepted and rejected images of a class, of this many classes at most."""


@dataclass(frozen=True)
class Job:
    """Some rows of the candidates and where they go; rows are in the order of their keys."""

    result: str
    name: str
    images: tuple[str, ...]
    rows: tuple[int, ...]


def split_of(rate: float) -> str:
    """Name of the split of one rate, the rate as people write it."""
    return f"accepted-{float(rate)}"


def jobs_of(place: str, images: list[str], rate: float, rows: NDArray[np.int64], shards: int) -> list[Job]:
    """One job per shard of the table of one rate: contiguous parts, none empty."""
    shards = min(shards, len(rows))
    bounds = [len(rows) * shard // shards for shard in range(shards + 1)]
    jobs = []
    for shard, (first, last) in enumerate(pairwise(bounds)):
        name = f"images/{split_of(rate)}-{shard:05d}-of-{shards:05d}.parquet"
        jobs.append(Job(io.join(place, name), name, tuple(images), tuple(rows[first:last].tolist())))
    return jobs


def finished(job: Job) -> bool:
    """Whether an earlier attempt wrote this shard."""
    return io.exists(job.result)


def write(job: Job) -> str:
    """Copy the rows into a table of their own."""
    from vim_core.data.image_tables import ImageTable, write_sorted

    table = ImageTable(job.images)
    write_sorted(job.result, (table.row(row) for row in job.rows))
    return job.name


def picture(table: ImageTable, scores: Scores, pool: NDArray[np.int64], max_pixels: int) -> bytes:
    """A PNG of one row a class: the candidates with the best scores, a gap, and those with the worst."""
    from vim_core.data.image_grid import grid_png

    classes = np.unique(scores.labels[pool])[:MOST_ROWS]
    lines = []
    for number in classes:
        rows = pool[scores.labels[pool] == number]
        rows = rows[np.argsort(-scores.scores[rows], kind="stable")]
        shown = min(SHOWN, len(rows) // 2)
        lines.append([*rows[:shown], *rows[len(rows) - shown :]])
    shown = min(map(len, lines)) // 2
    return grid_png(
        _pixels(table, [[*line[:shown], -1, *line[len(line) - shown :]] for line in lines], max_pixels), 2 * shown + 1
    )


def _pixels(table: ImageTable, lines: list[list[int]], max_pixels: int) -> Tensor:
    """Images [N, 3, S, S]; white for row -1."""
    from vim_core.data.images import center_crop, decode, to_tensor

    decoded = {row: decode(table.image(int(row)), max_pixels) for line in lines for row in line if row >= 0}
    size = min((min(image.shape[:2]) for image in decoded.values()), default=1)
    blank = np.full((size, size, 3), 255, np.uint8)
    return to_tensor(
        np.stack([blank if row < 0 else center_crop(decoded[row], size) for line in lines for row in line])
    )
