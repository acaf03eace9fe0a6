"""The memorisation check: are samples nearer to training images than unseen real images are?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from components.contract.api import Context, Inputs
from components.score import feature_cache, jobs, shards
from components.score.figures import Figures
from components.score.names import Names
from components.score.samples import Looked, network_of
from vim_core.config import ScoreConfig
from vim_core.storage import io

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NEAREST = 3
"""Training images kept for each query."""

SHOWN = 16
"""Samples in the picture, each beside its nearest training image, the nearest pairs first."""

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95)
TABLE, SUMMARY, PICTURE = "neighbours.parquet", "neighbours.json", "pictures/neighbours.png"


def add_neighbours(
    figures: Figures, looked: Looked, pairs: Sequence[shards.Pair], config: ScoreConfig, inputs: Inputs, ctx: Context
) -> None:
    """Files `neighbours.parquet` (key, rank, train_key, distance), `neighbours.json`, a picture of the nearest pairs.

    Queries are `score.neighbours` samples drawn by lot and as many held-out images; the training images' features are
    taken at the samples' size. `neighbours_near` is the share of samples that lie nearer to a training image than 99 of
    100 held-out images do: about 0.01 where samples are as new as those, near 1 where they are copies.
    """
    import numpy as np

    from components.engines.beam.runner import run_shards
    from vim_core.metrics.intervals import wilson_interval as share

    chosen = _drawn(len(looked.kept), config.neighbours)
    held_out = feature_cache.gather([job.result for job in pairs], "kept-real")
    others = held_out[_drawn(len(held_out), config.neighbours)]
    queries = io.join(ctx.work, "queries.npy")
    feature_cache.write(queries, np.concatenate([looked.kept[chosen], others]))
    size = _side(looked)
    searches = jobs.searches_of(config, inputs, ctx, queries, NEAREST, size)
    run_shards(ctx.run, searches, shards.measure, shards.finished, ctx.progress)
    distances, keys = _merged(searches)
    table = _table(looked)
    own = [table.keys[row] for row in chosen]
    _write(ctx.path(TABLE), own, distances[: len(own)], keys[: len(own)])
    summary = summary_of(distances[: len(own), 0], distances[len(own) :, 0])
    order = np.argsort(distances[: len(own), 0], kind="stable")[:SHOWN]
    nearest = [{"key": own[row], "train_key": str(keys[row, 0]), "distance": float(distances[row, 0])} for row in order]
    record = _protocol(looked, inputs, summary)
    io.write_bytes(ctx.path(SUMMARY), json.dumps(summary | {"nearest": nearest, "protocol": record}, indent=2).encode())
    picture = _picture(
        table, [int(chosen[row]) for row in order], [pair["train_key"] for pair in nearest], inputs, size
    )
    io.write_bytes(ctx.path(PICTURE), picture)
    ctx.tracker.image("neighbours", picture)
    near = int(summary["near"])
    interval = share(near, len(own))
    how = "95 %: Wilson's interval of a share of samples; the threshold is taken as it is"
    figures.put("neighbours_near", near / len(own), record, interval, how)
    figures.put("neighbours_ratio", float(summary["ratio"]), record | {"figure": "neighbours_ratio"})


def summary_of(samples: NDArray[np.float64], held_out: NDArray[np.float64]) -> dict[str, Any]:
    """Both distributions of the distance to the nearest training image, and how they lie to one another.

    `threshold` is the first percentile of the held-out images; `near` samples lie below it; `threshold_ratio` is it
    over the held-out median, so a sample whose own distance over that median (`ratio` is the median sample's) is less
    looks like a copy; `copies` are at less than a tenth of the threshold.
    """
    import numpy as np

    threshold, middle = float(np.quantile(held_out, 0.01)), float(np.median(held_out))
    return {
        "samples": _distribution(samples),
        "held_out": _distribution(held_out),
        "threshold": threshold,
        "threshold_ratio": threshold / middle if middle else 0.0,
        "ratio": float(np.median(samples)) / middle if middle else 0.0,
        "near": int((samples < threshold).sum()),
        "copies": int((samples <= threshold / 10).sum()),
    }


def _distribution(values: NDArray[np.float64]) -> dict[str, Any]:
    import numpy as np

    quantiles = {f"{share:g}": float(np.quantile(values, share)) for share in QUANTILES}
    return {"count": len(values), "mean": float(values.mean()), "least": float(values.min()), "quantiles": quantiles}


def _drawn(count: int, wanted: int) -> NDArray[np.int64]:
    """Rows drawn by lot, in order."""
    import numpy as np

    return np.sort(np.random.default_rng(0).permutation(count)[:wanted])


def _merged(searches: Sequence[shards.Search]) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """The nearest over all shards: distances and keys [queries, NEAREST]; shards in order, so ties fall alike."""
    from vim_core.metrics import npz
    from vim_core.metrics.distances import merge_nearest

    best: tuple[Any, Any] | None = None
    for job in searches:
        found = npz.unpack(io.read_bytes(f"{job.result}.npz"), ("distances", "keys"), "an answer of neighbours")
        pair = found["distances"], found["keys"]
        best = pair if best is None else merge_nearest(best, pair, NEAREST)
    assert best is not None
    return best


def _table(looked: Looked) -> Any:
    from vim_core.data.image_tables import ImageTable

    return ImageTable(list(looked.of.uris))


def _side(looked: Looked) -> int:
    """Pixels a side of the samples."""
    row = _table(looked).row(0)
    return int(min(row.height, row.width))


def _write(uri: str, own: list[str], distances: NDArray[np.float64], keys: NDArray[np.str_]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    ranks = distances.shape[1]
    columns = {
        "key": [key for key in own for _ in range(ranks)],
        "rank": pa.array([rank + 1 for _ in own for rank in range(ranks)], pa.int32()),
        "train_key": [str(key) for key in keys.reshape(-1)],
        "distance": distances.reshape(-1),
    }
    with io.staged(uri) as path:
        pq.write_table(pa.table(columns), path, compression="zstd")


def _protocol(looked: Looked, inputs: Inputs, summary: dict[str, Any]) -> dict[str, Any]:
    from vim_core.metrics.protocol import Protocol

    network, images = network_of(inputs), inputs["images"]
    return Protocol(
        figure="neighbours_near",
        compares="the distance of a sample to the nearest training image with that of held-out images",
        split="samples",
        count=int(summary["samples"]["count"]),
        resize=str(network.get("preprocessing", "")),
        network=str(network["kind"]),
        network_digest=str(network["digest"]),
        reference=f"train images; {summary['held_out']['count']} test images for the scale",
        reference_count=int(images.properties["splits"]["train"]),
        reference_digest=images.digest,
        sampling=looked.of.sampling,
        notes=f"exact search by Euclidean distance of the features behind {Names.of(network).distance}; near is below "
        "the first percentile of the held-out images' distances; ratio is of the medians",
    ).record()


def _picture(table: Any, rows: list[int], keys: list[str], inputs: Inputs, size: int) -> bytes:
    """Pairs of a sample and its nearest training image, four pairs a row."""
    import numpy as np

    from vim_core.data.image_grid import grid_png
    from vim_core.data.images import center_crop, decode, to_tensor

    limit = int(inputs["images"].manifest.config["max_pixels"])
    found = _training_images(inputs, set(keys), limit)
    images = [
        side for row, key in zip(rows, keys, strict=True) for side in (decode(table.image(row), limit), found[key])
    ]
    return grid_png(to_tensor(np.stack([center_crop(image, size) for image in images])), 8)


def _training_images(inputs: Inputs, keys: set[str], limit: int) -> dict[str, Any]:
    from vim_core.data.image_tables import ImageTable
    from vim_core.data.images import decode

    found: dict[str, Any] = {}
    for uri in inputs["images"].uris("images/train-"):
        table = ImageTable([uri])
        found |= {key: decode(table.image(row), limit) for row, key in enumerate(table.keys) if key in keys}
    return found
