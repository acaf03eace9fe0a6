"""The memorisation check: distances of samples and of unseen real images to the nearest training images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from components.contract.api import Context, Inputs
from components.score.feature_cache import gather_features, write_features
from components.score.measure import measure
from components.score.partition import neighbour_shards, network_record
from components.score.protocols import Figures, neighbours_record
from components.score.samples import SetStatistics
from components.score.shards import ReconstructionShard, finished
from vim_core.config import ScoreConfig
from vim_core.storage import io

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vim_core.data.image_tables import ImageTable

NEAREST = 3
"""Training images listed for each query."""

SHOWN = 16
"""Samples in the picture, each beside its nearest training image, the nearest pairs first."""

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95)
TABLE, SUMMARY, PICTURE = "neighbours.parquet", "neighbours.json", "pictures/neighbours.png"


def add_neighbours(
    figures: Figures,
    samples: SetStatistics,
    reconstructions: Sequence[ReconstructionShard],
    config: ScoreConfig,
    inputs: Inputs,
    ctx: Context,
) -> None:
    """Files `neighbours.parquet` (key, rank, train_key, distance), `neighbours.json`, a picture of the nearest pairs.

    Queries are `score.neighbours` random samples and as many held-out images; features of training images are computed
    at the samples' size. `neighbours_near` is the share of samples that are nearer to a training image than 99 of 100
    held-out images: about 0.01 if samples are as novel as those, near 1 if they are copies.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from components.engines.beam import run_shards
    from vim_core.data.image_tables import ImageTable
    from vim_core.metrics import npz
    from vim_core.metrics.intervals import wilson_interval
    from vim_core.metrics.neighbours import merge_nearest

    chosen = _random_rows(len(samples.features), config.neighbours)
    held_out = gather_features([shard.result for shard in reconstructions], "kept-real")
    held_out = held_out[_random_rows(len(held_out), config.neighbours)]
    queries = io.join(ctx.work, "queries.npy")
    write_features(queries, [samples.features[chosen], held_out])
    table = ImageTable(list(samples.images.uris))
    first = table.row(0)
    size = int(min(first.height, first.width))
    shards = neighbour_shards(config, inputs, ctx, queries, NEAREST, size)
    run_shards(ctx.run, shards, measure, finished, ctx.progress)
    files = (io.read_bytes(f"{shard.result}.npz") for shard in shards)
    results = (npz.unpack(file, ("distances", "keys"), "a result of neighbours") for file in files)
    pairs_of_shards = ((result["distances"], result["keys"]) for result in results)
    # ties go to the earlier shard
    distances, train_keys = reduce(lambda best, pair: merge_nearest(best, pair, NEAREST), pairs_of_shards)
    sample_keys, count = [table.keys[row] for row in chosen], len(chosen)
    ranks = distances.shape[1]
    columns = {
        "key": [key for key in sample_keys for _ in range(ranks)],
        "rank": pa.array([rank + 1 for _ in sample_keys for rank in range(ranks)], pa.int32()),
        "train_key": [str(key) for key in train_keys[:count].reshape(-1)],
        "distance": distances[:count].reshape(-1),
    }
    with io.staged(ctx.path(TABLE)) as path:
        pq.write_table(pa.table(columns), path, compression="zstd")
    summary = summarise(distances[:count, 0], distances[count:, 0])
    order = np.argsort(distances[:count, 0], kind="stable")[:SHOWN]
    nearest = [
        {"key": sample_keys[row], "train_key": str(train_keys[row, 0]), "distance": float(distances[row, 0])}
        for row in order
    ]
    counts = int(summary["samples"]["count"]), int(summary["held_out"]["count"])
    record = neighbours_record(network_record(inputs), inputs["images"], counts, samples.images.sampling)
    io.write_bytes(ctx.path(SUMMARY), json.dumps(summary | {"nearest": nearest, "protocol": record}, indent=2).encode())
    pairs = [(int(chosen[row]), str(train_keys[row, 0])) for row in order]
    picture = _picture(table, pairs, inputs, size)
    io.write_bytes(ctx.path(PICTURE), picture)
    ctx.tracker.image("neighbours", picture)
    near = int(summary["near"])
    method = "95 %: Wilson's interval of a share of samples; the threshold is taken as it is"
    figures.put(near / count, record, wilson_interval(near, count), method)
    figures.put(float(summary["ratio"]), record | {"figure": "neighbours_ratio"})


def summarise(samples: NDArray[np.float64], held_out: NDArray[np.float64]) -> dict[str, Any]:
    """Distributions of the distance to the nearest training image, of samples and of held-out images, and their ratios.

    `threshold` is the first percentile of the held-out images, `threshold_ratio` the same over their median, `ratio`
    the median of the samples over that of the held-out images. `near` counts samples below the threshold, `copies`
    those at a tenth of it or less.
    """
    import numpy as np

    threshold, median = float(np.quantile(held_out, 0.01)), float(np.median(held_out))
    return {
        "samples": _distribution(samples),
        "held_out": _distribution(held_out),
        "threshold": threshold,
        "threshold_ratio": threshold / median if median else 0.0,
        "ratio": float(np.median(samples)) / median if median else 0.0,
        "near": int((samples < threshold).sum()),
        "copies": int((samples <= threshold / 10).sum()),
    }


def _distribution(values: NDArray[np.float64]) -> dict[str, Any]:
    import numpy as np

    quantiles = {f"{share:g}": float(np.quantile(values, share)) for share in QUANTILES}
    return {"count": len(values), "mean": float(values.mean()), "least": float(values.min()), "quantiles": quantiles}


def _random_rows(count: int, wanted: int) -> NDArray[np.int64]:
    """At most `wanted` of `count` rows, drawn at random, in ascending order."""
    import numpy as np

    return np.sort(np.random.default_rng(0).permutation(count)[:wanted])


def _picture(table: ImageTable, pairs: list[tuple[int, str]], inputs: Inputs, size: int) -> bytes:
    """A PNG of pairs (row of a sample, key of its nearest training image), four pairs a row."""
    import numpy as np

    from vim_core.data.image_tables import ImageTable
    from vim_core.data.images import center_crop, decode, grid_png, to_tensor

    max_pixels, wanted = int(inputs["images"].manifest.config["max_pixels"]), {key for _, key in pairs}
    train: dict[str, Any] = {}
    for uri in inputs["images"].uris("images/train-"):
        part = ImageTable([uri])
        train |= {key: decode(part.image(row), max_pixels) for row, key in enumerate(part.keys) if key in wanted}
    images = [image for row, key in pairs for image in (decode(table.image(row), max_pixels), train[key])]
    return grid_png(to_tensor(np.stack([center_crop(image, size) for image in images])), 8)
