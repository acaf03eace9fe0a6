"""Distance of real images to other real images, in two sets as large as the two sides of the samples' figure."""

from __future__ import annotations

from collections.abc import Sequence

from components.contract.api import Artifact, Inputs
from components.score import protocols
from components.score.feature_cache import distance_of_sides
from components.score.figures import JACKKNIFE, Figures
from components.score.shards import RealShard
from components.statistics.shards import HALVES, read_moments

CACHE_LIMIT = 200_000
"""Above this number of images their features are not cached, and the figure has no interval."""


def pair_rank(key: str) -> int:
    """Rank of an image in the order in which real images are put into the two sets, 0 to 2^64 - 1."""
    from vim_core.data.image_tables import stable_hash

    return stable_hash("real pair", key) >> 192


def set_of(key: str, thresholds: tuple[int, int]) -> int:
    """0 or 1: the set of real images that an image belongs to; 2 for neither."""
    rank = pair_rank(key)
    return int(rank >= thresholds[0]) + int(rank >= thresholds[1])


def image_uris(inputs: Inputs) -> list[str]:
    """Image tables of the splits in `statistics.halves`, which are divided into the two sets."""
    splits = inputs["statistics"].properties["halves"]
    return [uri for split in splits for uri in inputs["images"].uris(f"images/{split}-")]


def rank_thresholds(inputs: Inputs, samples: int) -> tuple[int, int] | None:
    """Ranks below which as many real images lie as there are samples, and as both sides have together.

    Where there are too few images, both sets shrink in proportion; None where one would have fewer than two.
    """
    from vim_core.data.image_tables import ImageTable

    ranks = sorted(pair_rank(key) for uri in image_uris(inputs) for key in ImageTable([uri]).keys)
    first, second = set_sizes(samples, int(inputs["statistics"].properties["count"]), len(ranks))
    if min(first, second) < 2:
        return None
    return ranks[first], ranks[first + second] if first + second < len(ranks) else 1 << 64


def set_sizes(samples: int, real: int, available: int) -> tuple[int, int]:
    """Real images that stand for the samples, and for the real side, out of `available`."""
    if samples + real <= available:
        return samples, real
    first = min(max(available * samples // (samples + real), 2), available - 2)
    return first, available - first


def add_real_vs_real(
    figures: Figures, shards: Sequence[RealShard], statistics: Artifact, samples: int, groups: int, size: int
) -> None:
    """Add `<distance>_real_vs_real` of the shards' two sets, with its interval."""
    results = [shard.result for shard in shards]
    value, interval, counts = distance_of_sides(results, groups if shards[0].cache_features else 0)
    complete = counts == (samples, int(statistics.properties["count"]))
    record = protocols.real_vs_real_record(statistics, counts, size, complete)
    figures.put(record["figure"], value, record, interval, JACKKNIFE.format(groups=groups, fixed="on both sides"))


def add_halves(figures: Figures, statistics: Artifact, size: int) -> None:
    """Add `<distance>_real_vs_real` of one half of the real images to the other, in place of the two sets."""
    from vim_core.metrics.frechet import frechet_distance

    halves = [read_moments(statistics.uri(name)) for name in HALVES]
    record = protocols.halves_record(statistics, (halves[0].count, halves[1].count), size)
    figures.put(record["figure"], frechet_distance(halves[0], halves[1]), record)
