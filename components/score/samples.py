"""Figures of one set of generated images: accuracy, Fréchet distances, Inception Score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components.contract.api import Artifact, Context, Inputs
from components.score import feature_metrics, protocols
from components.score.feature_cache import distance_interval, gather_features
from components.score.figures import JACKKNIFE, PARTS, WILSON, Figures
from components.score.image_sets import ImageSet
from components.score.shards import SampleShard, read_record, statistics_file
from components.statistics.networks import FigureNames
from components.statistics.shards import FEATURES, MOMENTS, REFERENCE, SCORES, SPATIAL, merged_name, read_moments
from vim_core.config import ScoreConfig
from vim_core.errors import DataError
from vim_core.storage import io

FIXED = "the real images are taken as they are"


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
    from vim_core.metrics.intervals import wilson_interval

    records = [read_record(shard.result) for shard in shards]
    merged = _merge_set(images, shards, records)
    for kind, part in merged.merged.items():
        io.write_bytes(ctx.path(merged_name(images.name, kind)), part.to_bytes())
    count, own = merged.count, Figures(metrics={"samples": float(merged.count)})
    generated = protocols.Generated(images.sampling, config.protocol)
    if shards[0].weights and all(record["labelled"] == record["count"] for record in records):
        correct = sum(record["correct"] for record in records)
        record = protocols.accuracy_record(generated, inputs["classifier"], count, merged.size)
        own.put("conditional_accuracy", correct / count, record, wilson_interval(correct, count), WILSON)
    if "statistics" in inputs:
        statistics = inputs["statistics"]
        _add_distances(own, generated, merged, statistics, config.groups)
        _add_inception_score(own, generated, merged, statistics)
        if FEATURES in merged.merged:
            sample = merged.merged[FEATURES]
            feature_metrics.add_feature_metrics(own, generated, sample, images, inputs, config, merged.size)

    def named(key: str) -> str:
        """The name with the set's suffix, which comes before _low, _high and _std."""
        end = next((end for end in ("_low", "_high", "_std") if key.endswith(end)), "")
        return f"{key.removesuffix(end)}{images.suffix}{end}"

    figures.metrics |= {named(key): value for key, value in own.metrics.items()}
    figures.protocols |= {named(key): record for key, record in own.protocols.items()}
    return merged


def _merge_set(images: ImageSet, shards: Sequence[SampleShard], records: list[dict[str, Any]]) -> SetStatistics:
    from vim_core.metrics.feature_statistics import merge_files

    results = [shard.result for shard, record in zip(shards, records, strict=True) if record["count"]]
    if not results:
        raise DataError(f"score: there is no image among the {images.name}")
    optional = ((SCORES, shards[0].splits), (FEATURES, shards[0].features), (SPATIAL, shards[0].spatial))
    kinds = [MOMENTS, *(kind for kind, wanted in optional if wanted)]
    merged = {kind: merge_files(statistics_file(result, kind) for result in results) for kind in kinds}
    features = gather_features(results, "kept") if shards[0].cache_features else None
    count = sum(record["count"] for record in records)
    return SetStatistics(images, results, merged, count, int(records[0]["size"]), features)


def _add_distances(
    own: Figures, generated: protocols.Generated, merged: SetStatistics, statistics: Artifact, groups: int
) -> None:
    """Add the Fréchet distances to the real images and to the reference file, of pool and of spatial features."""
    from vim_core.metrics.frechet import frechet_distance
    from vim_core.metrics.reference import read_reference

    names, split = FigureNames.of_network(statistics.properties["network"]), str(statistics.properties["split"])
    moments = merged.merged[MOMENTS]
    spatial, spatial_features = merged.merged.get(SPATIAL), None
    if spatial is not None and merged.features is not None:
        spatial_features = gather_features(merged.results, "kept-spatial")

    def put(name: str, own_moments: Any, features: Any, other: Any, record: dict[str, Any]) -> None:
        value = frechet_distance(own_moments, other)
        interval = distance_interval(value, [(own_moments, features)], groups, other)
        own.put(name, value, record | {"figure": name}, interval, JACKKNIFE.format(groups=groups, fixed=FIXED))

    real = read_moments(statistics.uri(merged_name(split)))
    record = protocols.distance_record(generated, statistics, (moments.count, real.count), merged.size)
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
    record = protocols.reference_record(generated, statistics, moments.count, merged.size)
    put(f"{names.distance}_reference", moments, merged.features, reference.gaussian, record)
    if reference.spatial is not None and spatial is not None:
        notes = {"notes": "sFID: spatial features of mixed_6/conv"}
        put(f"{names.spatial}_reference", spatial, spatial_features, reference.spatial, record | notes)


def _add_inception_score(
    own: Figures, generated: protocols.Generated, merged: SetStatistics, statistics: Artifact
) -> None:
    from vim_core.metrics.conventions import convention
    from vim_core.metrics.intervals import student_quantile

    if SCORES not in merged.merged:
        return
    sums = merged.merged[SCORES]
    splits = int(sums.counts.size)
    description = convention(generated.protocol).split_description(splits)
    record = protocols.inception_score_record(generated, statistics, sums.count, merged.size, description)
    value, deviation = sums.score()
    half = student_quantile(splits - 1) * deviation / (splits - 1) ** 0.5 if splits > 1 else 0.0
    interval = (value - half, value + half) if splits > 1 else None
    own.put(record["figure"], value, record, interval, PARTS.format(parts=f"{splits} splits"))
    name = f"{record['figure']}_std"
    own.put(name, deviation, record | {"figure": name})
