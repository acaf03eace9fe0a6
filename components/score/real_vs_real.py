"""What real images score against real images, in sets as large as the two sides of the samples' figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from components.contract.api import Inputs
from components.score import feature_cache, protocols, shards
from components.score.figures import JACKKNIFE, Figures

if TYPE_CHECKING:
    from vim_core.features import FeatureSpec

KEPT = 200_000
"""Above so many images their features are not kept, and the figure has no interval."""


def cuts_of(inputs: Inputs, samples: int) -> tuple[int, int] | None:
    """Hashes below which as many real images lie as there are samples, and as both sides have together.

    The images are those of the splits in `statistics.halves`. Where they are too few, both sides shrink in proportion;
    None where fewer than two would be left on a side.
    """
    from components.score.shard_work import pair_rank
    from vim_core.data.image_tables import ImageTable

    ranks = sorted(pair_rank(key) for uri in _uris(inputs) for key in ImageTable([uri]).keys)
    first, second = sides(samples, int(inputs["statistics"].properties["count"]), len(ranks))
    if min(first, second) < 2:
        return None
    return ranks[first], ranks[first + second] if first + second < len(ranks) else 1 << 64


def sides(samples: int, real: int, pool: int) -> tuple[int, int]:
    """How many of `pool` real images stand for the samples and how many for the real side."""
    if samples + real <= pool:
        return samples, real
    first = min(max(pool * samples // (samples + real), 2), pool - 2)
    return first, pool - first


def jobs_of(
    inputs: Inputs, cuts: tuple[int, int], groups: int, result: Any, shared: dict[str, Any], tap: FeatureSpec
) -> Any:
    """One job per shard of real images; `result` gives a shard's place in the work folder by its name."""
    keep = groups > 0 and sum(inputs["images"].properties["splits"][s] for s in _splits(inputs)) <= KEPT
    return [
        shards.RealPair(result(f"{place:05d}"), uri, uri, cuts, tap=tap, keep=keep, **shared)
        for place, uri in enumerate(_uris(inputs))
    ]


def add_floor(
    figures: Figures, jobs: list[shards.RealPair], inputs: Inputs, samples: int, groups: int, size: int
) -> None:
    """Put the shards together: `<distance>_real_vs_real` with its interval."""
    from vim_core.metrics.feature_statistics import merge_files
    from vim_core.metrics.frechet import frechet_distance

    results = [job.result for job in jobs]
    made, real = (
        merge_files(shards.part_file(f"{each}-{side}", "moments") for each in results) for side in ("made", "real")
    )
    value = frechet_distance(made, real)
    interval = None
    if jobs[0].keep:
        features = [feature_cache.gather(results, f"kept-{side}") for side in ("made", "real")]
        interval = feature_cache.interval_of(value, [(made, features[0]), (real, features[1])], groups)
    statistics = inputs["statistics"]
    full = (made.count, real.count) == (samples, int(statistics.properties["count"]))
    record = protocols.of_floor(statistics, (made.count, real.count), size, full)
    how = JACKKNIFE.format(groups=groups, fixed="on both sides")
    figures.put(record["figure"], value, record, interval, how)


def _splits(inputs: Inputs) -> list[str]:
    return [str(name) for name in inputs["statistics"].properties["halves"]]


def _uris(inputs: Inputs) -> list[str]:
    return [uri for split in _splits(inputs) for uri in inputs["images"].uris(f"images/{split}-")]
