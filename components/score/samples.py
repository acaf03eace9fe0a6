"""Figures of one set of generated images: accuracy, distances, Inception Score, and figures of single features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.contract.api import Artifact, Context, Inputs
from components.score.feature_cache import distance_interval, distances_without_groups, gather_features
from components.score.partition import SAMPLES, ImageSet
from components.score.protocols import (
    BOOTSTRAP,
    JACKKNIFE,
    PARTS,
    WILSON,
    Figures,
    SampleRecords,
    accuracy_record,
)
from components.score.shards import SampleShard, read_record, statistics_file
from components.statistics.shards import (
    FEATURES,
    MOMENTS,
    REFERENCE,
    REFERENCE_IMAGES,
    SCORES,
    SPATIAL,
    merged_name,
    read_moments,
)
from vim_core.config import ScoreConfig
from vim_core.errors import DataError
from vim_core.storage import io

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


FIXED = "the real images are taken as they are"
KID_INTERVAL_IMAGES = 10_000
"""Largest number of images a side for the interval of KID, which compares every pair of them."""


@dataclass(frozen=True)
class SetStatistics:
    """Merged results of the shards of one set.

    Attributes:
        images: the set.
        results: addresses of the results of all shards with images.
        merged: statistics of all images by kind (`MOMENTS`, `SCORES`, `FEATURES`, `SPATIAL`).
        count: number of images.
        size: pixels a side of the evaluator's input.
        features: cached features [N, D], None if they were not cached.
    """

    images: ImageSet
    results: list[str]
    merged: dict[str, Any]
    count: int
    size: int
    features: Any


def add_samples(
    figures: Figures, images: ImageSet, shards: Sequence[SampleShard], config: ScoreConfig, inputs: Inputs, ctx: Context
) -> SetStatistics:
    """Add the figures of one set and return its statistics; writes them as `<kind>/<set>.npz`.

    Raises:
        DataError: the set has no images.
    """
    from vim_core.metrics.feature_statistics import merge_files
    from vim_core.metrics.intervals import wilson_interval

    parts = [read_record(shard.result) for shard in shards]
    results = [shard.result for shard, part in zip(shards, parts, strict=True) if part["count"]]
    if not results:
        raise DataError(f"score: there is no image among the {images.name}")
    optional = ((SCORES, shards[0].splits), (FEATURES, shards[0].features), (SPATIAL, shards[0].spatial))
    kinds = [MOMENTS, *(kind for kind, wanted in optional if wanted)]
    statistics = {kind: merge_files(statistics_file(result, kind) for result in results) for kind in kinds}
    features = gather_features(results, "kept") if shards[0].cache_features else None
    count, size = sum(part["count"] for part in parts), int(parts[0]["size"])
    merged = SetStatistics(images, results, statistics, count, size, features)
    for kind, part in statistics.items():
        io.write_bytes(ctx.path(merged_name(images.name, kind)), part.to_bytes())
    own = Figures(metrics={"samples": float(count)})
    if shards[0].weights and all(part["labelled"] == part["count"] for part in parts):
        correct = sum(part["correct"] for part in parts)
        record = accuracy_record(images.sampling, inputs["classifier"], count, size)
        own.put(correct / count, record, wilson_interval(correct, count), WILSON)
    if "statistics" in inputs:
        records = SampleRecords(inputs["statistics"], size, images.sampling, config.protocol)
        _add_distances(own, records, merged, config.groups)
        if SCORES in statistics:
            _add_inception_score(own, records, merged)
        if FEATURES in statistics:
            _add_feature_metrics(own, records, merged, inputs["images"], config)

    suffix = "" if images.name == SAMPLES else f"_{images.name.replace('-', '_')}"

    def named(key: str) -> str:
        """The name with the set's suffix, none for the samples themselves, before _low, _high and _std."""
        end = next((end for end in ("_low", "_high", "_std") if key.endswith(end)), "")
        return f"{key.removesuffix(end)}{suffix}{end}"

    figures.metrics |= {named(key): value for key, value in own.metrics.items()}
    figures.protocols |= {named(key): record for key, record in own.protocols.items()}
    return merged


def _add_distances(own: Figures, records: SampleRecords, merged: SetStatistics, groups: int) -> None:
    """Add the Fréchet distances to the real images and to the reference file, of pool and of spatial features."""
    from vim_core.metrics.frechet import frechet_distance
    from vim_core.metrics.reference import read_reference

    statistics, names, moments = records.statistics, records.names, merged.merged[MOMENTS]
    split = str(statistics.properties["split"])
    spatial, spatial_features = merged.merged.get(SPATIAL), None
    if spatial is not None and merged.features is not None:
        spatial_features = gather_features(merged.results, "kept-spatial")

    def put(name: str, own_moments: Any, features: Any, other: Any, record: dict[str, Any]) -> None:
        value = frechet_distance(own_moments, other)
        interval = distance_interval(value, distances_without_groups([(own_moments, features)], groups, other))
        own.put(value, record | {"figure": name}, interval, JACKKNIFE.format(groups=groups, fixed=FIXED))

    real = read_moments(statistics.uri(merged_name(split)))
    record = records.distance(moments.count, real.count)
    put(names.distance, moments, merged.features, real, record)
    if spatial is not None:
        notes = {"notes": "sFID: spatial features of mixed_6/conv (Nash et al. 2021)"}
        put(names.spatial, spatial, spatial_features, read_moments(statistics.uri(merged_name(split, SPATIAL))),
            record | notes)  # fmt: skip
    if "reference" not in statistics.properties:
        return
    with io.local_copy(statistics.uri(REFERENCE)) as path:
        reference = read_reference(path)
    if reference.gaussian is None:
        raise DataError(f"{statistics.uri(REFERENCE)} has no statistics: run statistics again with --force")
    record = records.distance(moments.count, None)
    put(f"{names.distance}_reference", moments, merged.features, reference.gaussian, record)
    if reference.spatial is not None and spatial is not None:
        notes = {"notes": "sFID: spatial features of mixed_6/conv"}
        put(f"{names.spatial}_reference", spatial, spatial_features, reference.spatial, record | notes)


def _add_inception_score(own: Figures, records: SampleRecords, merged: SetStatistics) -> None:
    from vim_core.metrics.conventions import CONVENTIONS

    sums = merged.merged[SCORES]
    splits = int(sums.counts.size)
    record = records.inception_score(sums.count, CONVENTIONS[records.protocol].split_description(splits))
    value, deviation = sums.score()
    own.put(value, record, sums.interval(), PARTS.format(parts=f"{splits} splits"))
    own.put(deviation, record | {"figure": f"{record['figure']}_std"})


def _add_feature_metrics(
    own: Figures, records: SampleRecords, merged: SetStatistics, images: Artifact, config: ScoreConfig
) -> None:
    """Compare a set with the real images of the statistics' split and with the images of the reference file, if any."""
    from vim_core.data.image_tables import ImageTable
    from vim_core.metrics.conventions import in_table_order
    from vim_core.metrics.feature_statistics import merge_files

    statistics, sample = records.statistics, merged.merged[FEATURES]
    split = str(statistics.properties["split"])
    real = merge_files([statistics.uri(merged_name(split, FEATURES))])
    x, y = sample.features, real.features
    if config.protocol:
        x = in_table_order(sample, ImageTable(list(merged.images.uris)).keys)
        y = in_table_order(real, ImageTable(images.uris(f"images/{split}-")).keys)
    _add_comparison(own, records, x, y, config)
    name = merged_name(REFERENCE_IMAGES, FEATURES)
    if any(entry.name == name for entry in statistics.manifest.files):
        reference = merge_files([statistics.uri(name)])
        count = int(statistics.properties["reference"]["images"])
        keys = [f"{REFERENCE_IMAGES}-{row:08d}" for row in range(count)]
        y = in_table_order(reference, keys) if config.protocol else reference.features
        _add_comparison(own, records, x, y, config, to_file=True)


def _add_comparison(
    own: Figures, records: SampleRecords, x: NDArray[Any], y: NDArray[Any], config: ScoreConfig, to_file: bool = False
) -> None:
    """Add KID, precision, recall, density and coverage of generated features x [M, D] against real ones y [N, D]."""
    from vim_core.metrics.conventions import CONVENTIONS
    from vim_core.metrics.intervals import bootstrap_interval, jackknife_interval, wilson_interval
    from vim_core.metrics.kernel_distance import SEED, SUBSET_SIZE, SUBSETS, kernel_distance, leave_one_group_out
    from vim_core.metrics.neighbours import density_coverage, manifold_membership

    names, rules = records.names, CONVENTIONS[config.protocol]
    subset = SUBSET_SIZE if config.protocol else min(SUBSET_SIZE, len(x), len(y))
    kid = f"Bińkowski et al. 2018: mean over {SUBSETS} subsets of {subset}, (x·y / D + 1)^3, unbiased, seed {SEED}"
    by_figure = records.features(len(x), len(y), kid, to_file)

    def put_share(figure: str, hits: NDArray[np.bool_]) -> None:
        own.put(float(hits.mean()), by_figure[figure], wilson_interval(int(hits.sum()), len(hits)), WILSON)

    precise, recalled = manifold_membership(y, x)
    put_share(names.precision, precise)
    put_share(names.recall, recalled)
    if rules.kernel:
        value = kernel_distance(x, y, size=subset)
        interval, method = None, ""
        if config.groups and min(len(x), len(y)) >= 2 * config.groups:
            most = KID_INTERVAL_IMAGES
            interval = jackknife_interval(value, leave_one_group_out(x[:most], y[:most], config.groups))
            method = JACKKNIFE.format(groups=config.groups, fixed=f"of at most {most} images on both sides")
        own.put(value, by_figure[names.kernel], interval, method)
    if not rules.name:
        density, covered = density_coverage(y, x)
        own.put(float(density.mean()), by_figure[names.density], bootstrap_interval(density), BOOTSTRAP)
        put_share(names.coverage, covered)
