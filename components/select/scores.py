"""Scores that a selector gives to one shard of candidates, as a file, so that finished shards are not redone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.features.selectors import SelectorSpec


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


def finished(shard: ScoreShard) -> bool:
    """True if an earlier attempt scored this shard."""
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
    probabilities, likeliest = [np.empty(0)], [np.empty(0, bool)]
    for start in range(0, len(table), shard.batch):
        rows = range(start, min(start + shard.batch, len(table)))
        images = [decode(table.image(row), shard.max_pixels) for row in rows]
        scores, best = selector.score(images, torch.from_numpy(table.labels[rows.start : rows.stop]))
        probabilities.append(scores.numpy())
        likeliest.append(best.numpy())
    write(shard.result, Scores(table.keys, table.labels, np.concatenate(probabilities), np.concatenate(likeliest)))
    return shard.result


def write(uri: str, scores: Scores) -> None:
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


def read(uris: list[str]) -> Scores:
    """The scores of all shards, one after the other."""
    from vim_core.data.image_tables import open_parquet

    tables = [open_parquet(uri).read() for uri in uris]
    columns = {
        name: np.concatenate([table[name].to_numpy() for table in tables]) for name in ("label", "score", "likeliest")
    }
    keys = [key for table in tables for key in table["key"].to_pylist()]
    return Scores(keys, columns["label"].astype(np.int64), columns["score"], columns["likeliest"].astype(bool))
