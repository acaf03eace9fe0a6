"""What a selector says of one shard of candidates, kept as a file so that finished shards are not redone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.features.selectors import SelectorSpec


@dataclass(frozen=True)
class Job:
    """One shard of candidates, where its scores go, and the network."""

    result: str
    images: str
    spec: SelectorSpec
    batch: int
    max_pixels: int
    threads: int


@dataclass(frozen=True)
class Scores:
    """Of N candidates: keys, class wanted int64 [N], its probability float64 [N], whether it is the likeliest [N]."""

    keys: list[str]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    likeliest: NDArray[np.bool_]


def finished(job: Job) -> bool:
    """Whether an earlier attempt scored this shard."""
    return io.exists(job.result)


def measure(job: Job) -> str:
    """Score one shard; its file appears as a whole."""
    import torch

    from components.engines.devices import set_threads
    from components.select.network import loaded
    from vim_core.data.image_tables import ImageTable
    from vim_core.data.images import decode

    set_threads(job.threads)
    selector, table = loaded(job.spec), ImageTable([job.images])
    found, likeliest = [np.empty(0)], [np.empty(0, bool)]
    for start in range(0, len(table), job.batch):
        rows = range(start, min(start + job.batch, len(table)))
        pictures = [decode(table.image(row), job.max_pixels) for row in rows]
        scores, best = selector.score(pictures, torch.from_numpy(table.labels[rows.start : rows.stop]))
        found.append(scores.numpy())
        likeliest.append(best.numpy())
    write(job.result, Scores(table.keys, table.labels, np.concatenate(found), np.concatenate(likeliest)))
    return job.result


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
