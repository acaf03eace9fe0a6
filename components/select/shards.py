"""Shards of scored candidates and of accepted images as files, so that finished ones are not redone; a picture."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.data.image_tables import ImageTable
    from vim_core.features.selectors import SelectorSpec

SHOWN, MOST_ROWS = 4, 10
"""Accepted and rejected images of each class in the picture, and classes in it at most."""


@dataclass(frozen=True)
class ScoreShard:
    """One shard of candidates: file of its scores, file of its images, network, batch size, pixel limit, threads."""

    result: str
    images: str
    spec: SelectorSpec
    batch: int
    max_pixels: int
    threads: int


@dataclass(frozen=True)
class Scores:
    """N candidates: keys, class sampled int64 [N], its probability float64 [N], whether it is likeliest bool [N]."""

    keys: list[str]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    likeliest: NDArray[np.bool_]


@dataclass(frozen=True)
class TableShard:
    """A shard of accepted images: its file, name in the artifact, tables of candidates, and rows in order of keys."""

    result: str
    name: str
    images: tuple[str, ...]
    rows: tuple[int, ...]


def finished(shard: ScoreShard | TableShard) -> bool:
    """True if an earlier attempt made this shard."""
    return io.exists(shard.result)


def measure(shard: ScoreShard) -> str:
    """Score one shard; its file appears as a whole."""
    import torch

    from components.engines.devices import set_threads
    from components.select.network import cached_selector
    from vim_core.data.image_tables import ImageTable
    from vim_core.data.images import decode

    set_threads(shard.threads)
    selector, table = cached_selector(shard.spec), ImageTable([shard.images])
    parts = [(np.empty(0), np.empty(0, bool))]
    for start in range(0, len(table), shard.batch):
        rows = range(start, min(start + shard.batch, len(table)))
        images = [decode(table.image(row), shard.max_pixels) for row in rows]
        scores, likeliest = selector.score(images, torch.from_numpy(table.labels[rows.start : rows.stop]))
        parts.append((scores.numpy(), likeliest.numpy()))
    write_scores(shard.result, Scores(table.keys, table.labels, *map(np.concatenate, zip(*parts, strict=True))))
    return shard.result


def write_scores(uri: str, scores: Scores) -> None:
    """A Parquet file of key, label, score and likeliest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "key": pa.array(scores.keys, pa.string()),
        "label": scores.labels,
        "score": scores.scores,
        "likeliest": scores.likeliest,
    }
    with io.staged(uri) as path:
        pq.write_table(pa.table(columns), path, compression="zstd")


def read_scores(uris: list[str]) -> Scores:
    """The scores of all shards, one after the other."""
    import pyarrow as pa

    from vim_core.data.image_tables import open_parquet

    table = pa.concat_tables([open_parquet(uri).read() for uri in uris])
    label, score, likeliest = (table[name].to_numpy() for name in ("label", "score", "likeliest"))
    return Scores(table["key"].to_pylist(), label, score, likeliest)


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


def write_table(shard: TableShard) -> str:
    """Copy the rows into a table of their own."""
    from vim_core.data.image_tables import ImageTable, write_sorted

    table = ImageTable(shard.images)
    write_sorted(shard.result, (table.row(row) for row in shard.rows))
    return shard.name


def picture(table: ImageTable, scores: Scores, classes: int, needed: int, max_pixels: int) -> bytes:
    """A PNG of one row a class: of the first `needed` candidates the best by score, a gap, and the worst."""
    from vim_core.data.images import center_crop, decode, grid_png, to_tensor
    from vim_core.sampling.rejection import candidates_by_class

    pool = np.concatenate([rows[:needed] for rows in candidates_by_class(scores.keys, scores.labels, classes)])
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
