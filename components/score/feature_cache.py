"""Cached features beside a shard's statistics: float32 [images, D], 400 MB for 50,000 of Inception's.

Intervals of Fréchet distances and the neighbour search need the features of single images.
"""

from __future__ import annotations

import io as memory
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from components.score.protocols import Interval
from components.score.shards import SIDES, statistics_file
from components.statistics.shards import MOMENTS
from vim_core.metrics.intervals import CONFIDENCE, jackknife_interval
from vim_core.storage import io

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vim_core.metrics.frechet import Gaussian, Moments

SEED = 0


def write_features(uri: str, parts: Sequence[NDArray[np.float32]]) -> None:
    """Write batches [n, D] as one file; nothing where there are none."""
    import numpy as np

    if parts:
        stream = memory.BytesIO()
        np.save(stream, np.concatenate(parts))
        io.write_bytes(uri, stream.getvalue())


def read_features(uri: str) -> NDArray[np.float32]:
    """Read what `write_features` wrote."""
    import numpy as np

    features: NDArray[np.float32] = np.load(memory.BytesIO(io.read_bytes(uri)), allow_pickle=False)
    return features


def gather_features(results: Iterable[str], name: str) -> NDArray[np.float32]:
    """The features of all shards in order [N, D]; a shard without images has no file."""
    import numpy as np

    uris = (f"{result}-{name}.npy" for result in results)
    return np.concatenate([read_features(uri) for uri in uris if io.exists(uri)])


def distances_without_groups(
    sides: Sequence[tuple[Moments, NDArray[np.float32] | None]],
    groups: int,
    other: Moments | Gaussian | None = None,
) -> list[float]:
    """Fréchet distances between two sides, or between one side and a fixed `other`, without one group of images each.

    One of `groups` groups is left out in turn of every side that has features; images are assigned to groups at random,
    and alike in all sets of one size. Empty if there are fewer than two images a group or `groups` is 0.
    """
    import numpy as np

    from vim_core.metrics.frechet import Moments, frechet_distance

    def leave_groups_out(total: Moments, features: NDArray[np.float32]) -> list[Moments]:
        group_of = np.random.default_rng(SEED).permutation(len(features)) % groups
        return [total.without(Moments.from_batch(features[group_of == group])) for group in range(groups)]

    fewest = min((len(features) for _, features in sides if features is not None), default=0)
    if not groups or fewest < 2 * groups:
        return []
    partial = [leave_groups_out(m, f) if f is not None else [m] * groups for m, f in sides]
    pairs = zip(*partial, strict=True) if other is None else ((side, other) for side in partial[0])
    return [frechet_distance(a, b, quick=True) for a, b in pairs]


def distance_interval(value: float, without: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The jackknife interval of a distance, not below 0, from `distances_without_groups`; None where that is empty."""
    if not without:
        return None
    low, high = jackknife_interval(value, without, confidence)
    return max(low, 0.0), high


def distance_of_sides(results: Sequence[str], groups: int) -> tuple[float, Interval, tuple[int, int]]:
    """Fréchet distance of the two sides that shards measured, its interval, and the images of each side.

    Without groups there is no interval and no features are read.
    """
    from vim_core.metrics.feature_statistics import merge_files
    from vim_core.metrics.frechet import frechet_distance

    first, second = (merge_files(statistics_file(f"{result}-{side}", MOMENTS) for result in results) for side in SIDES)
    value, interval = frechet_distance(first, second), None
    if groups:
        features = [gather_features(results, f"kept-{side}") for side in SIDES]
        sides = list(zip((first, second), features, strict=True))
        interval = distance_interval(value, distances_without_groups(sides, groups))
    return value, interval, (first.count, second.count)
