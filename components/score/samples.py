"""Figures of generated images: which network looks at them, and what comes of comparing them with real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.contract.api import Artifact, Context, Inputs
from components.score import feature_cache, feature_metrics, protocols, shards
from components.score.figures import JACKKNIFE, PARTS, WILSON, Figures
from components.score.names import Names
from components.score.sets import ImageSet
from components.statistics.component import REFERENCE, read
from components.statistics.shards import (
    FEATURES,
    HALVES,
    MOMENTS,
    SCORES,
    SPATIAL,
    classifier_spec,
    reference_spec,
    whole,
)
from vim_core.config import ScoreConfig
from vim_core.errors import ConfigError, DataError
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.features import FeatureSpec
    from vim_core.metrics.conventions import Convention
    from vim_core.metrics.moments import Gaussian

FIXED = "the real images are taken as they are"


def network_of(inputs: Inputs) -> dict[str, Any]:
    """The network that samples are looked at through: that of the statistics, else the classifier; empty for none."""
    if "statistics" in inputs:
        return dict(inputs["statistics"].properties["network"])
    return {"kind": "classifier", "digest": inputs["classifier"].digest} if "classifier" in inputs else {}


def tap_of(inputs: Inputs, ctx: Context) -> FeatureSpec | None:
    """The same as workers load it."""
    from vim_core.features import CLASSIFIER, check_spec

    if "statistics" not in inputs:
        return classifier_spec(inputs["classifier"]) if "classifier" in inputs else None
    spec = reference_spec(inputs, ctx)
    if spec.network != CLASSIFIER:
        check_spec(spec)
    return spec


def asked(inputs: Inputs, rule: Convention, total: int) -> dict[str, Any]:
    """Splits of the Inception Score, images for precision and recall, and sFID, as the statistics were made.

    Raises `ConfigError` where rules want every image looked at and the statistics keep the features of fewer.
    """
    config = inputs["statistics"].manifest.config if "statistics" in inputs else {}
    features = int(config.get("features", 0))
    if rule.every and 0 < features < total:
        raise ConfigError(
            f"score.protocol={rule.name}: precision and recall look at all {total} samples, and "
            f"statistics.features={features} keeps fewer; raise it, or set 0 to leave these figures out"
        )
    splits = rule.split_count(total, int(config.get("score_splits", 0))) if config else 0
    return {"splits": splits, "features": features, "spatial": bool(config.get("spatial", False))}


@dataclass(frozen=True)
class Looked:
    """What the shards of one set come to: sums by kind, features if they were kept, and the network's input size."""

    of: ImageSet
    results: list[str]
    sums: dict[str, Any]
    count: int
    size: int
    kept: Any

    @property
    def moments(self) -> Any:
        """Moments of all images."""
        return self.sums[MOMENTS]


def add_samples(
    figures: Figures, of: ImageSet, jobs: Sequence[shards.Judged], config: ScoreConfig, inputs: Inputs, ctx: Context
) -> Looked:
    """Put the shards of one set together: files `moments/<set>.npz` and, if asked for, those of the other kinds."""
    from vim_core.metrics.conventions import convention

    records = [shards.load(job.result) for job in jobs]
    looked = _looked(of, jobs, records)
    for kind, part in looked.sums.items():
        io.write_bytes(ctx.path(whole(of.file, kind)), part.to_bytes())
    own = Figures(metrics={"samples": float(looked.count)})
    made = protocols.Made(of.sampling, config.protocol)
    if jobs[0].weights and all(record["labelled"] == record["count"] for record in records):
        _add_accuracy(own, made, looked, sum(record["correct"] for record in records), inputs["classifier"])
    if "statistics" in inputs:
        statistics = inputs["statistics"]
        _add_distances(own, made, looked, statistics, config.groups)
        _add_score(own, made, looked, statistics, convention(config.protocol))
        if FEATURES in looked.sums:
            feature_metrics.add(own, made, looked.sums[FEATURES], of, inputs, config, looked.size)
    figures.add(*_named(own, of.suffix))
    return looked


def _looked(of: ImageSet, jobs: Sequence[shards.Judged], records: list[dict[str, Any]]) -> Looked:
    from vim_core.metrics.feature_statistics import merge_files

    count = sum(record["count"] for record in records)
    filled = [job.result for job, record in zip(jobs, records, strict=True) if record["count"]]
    if not filled:
        raise DataError(f"score: there is no image among the {of.name}")
    wanted = ((SCORES, jobs[0].splits), (FEATURES, jobs[0].features), (SPATIAL, jobs[0].spatial))
    kinds = [MOMENTS, *(kind for kind, asked_for in wanted if asked_for)]
    sums = {kind: merge_files(shards.part_file(result, kind) for result in filled) for kind in kinds}
    features = feature_cache.gather(filled, "kept") if jobs[0].keep else None
    return Looked(of, filled, sums, count, int(records[0]["size"]), features)


def _named(own: Figures, suffix: str) -> tuple[dict[str, float], dict[str, Any]]:
    """The same figures under names that end in the set's suffix, before _low, _high and _std."""

    def name(key: str) -> str:
        end = next((end for end in ("_low", "_high", "_std") if key.endswith(end)), "")
        return f"{key.removesuffix(end)}{suffix}{end}"

    return {name(k): v for k, v in own.metrics.items()}, {name(k): v for k, v in own.protocols.items()}


def _add_accuracy(own: Figures, made: protocols.Made, looked: Looked, correct: int, classifier: Artifact) -> None:
    from vim_core.metrics.intervals import wilson_interval

    record = protocols.of_samples(made, classifier, looked.count, looked.size)
    own.put("conditional_accuracy", correct / looked.count, record, wilson_interval(correct, looked.count), WILSON)


def _add_distances(own: Figures, made: protocols.Made, looked: Looked, statistics: Artifact, groups: int) -> None:
    from vim_core.metrics.frechet import frechet_distance

    names = Names.of(statistics.properties["network"])
    split = str(statistics.properties["split"])
    how = JACKKNIFE.format(groups=groups, fixed=FIXED)

    def put(name: str, moments: Any, features: Any, other: Any, record: dict[str, Any]) -> None:
        value = frechet_distance(moments, other)
        own.put(name, value, record, feature_cache.interval_of(value, [(moments, features)], groups, other), how)

    real = read(statistics.uri(whole(split)))
    record = protocols.of_distance(made, statistics, (looked.moments.count, real.count), looked.size)
    put(names.distance, looked.moments, looked.kept, real, record)
    spatial = None
    if SPATIAL in looked.sums:
        spatial = feature_cache.gather(looked.results, "kept-spatial") if looked.kept is not None else None
        changed = {"figure": names.spatial, "notes": "sFID: spatial features of mixed_6/conv (Nash et al. 2021)"}
        put(names.spatial, looked.sums[SPATIAL], spatial, read(statistics.uri(whole(split, SPATIAL))), record | changed)
    if "reference" in statistics.properties:
        given, given_spatial = _reference(statistics)
        record = protocols.of_reference(made, statistics, looked.moments.count, looked.size)
        put(f"{names.distance}_reference", looked.moments, looked.kept, given, record)
        if given_spatial is not None and SPATIAL in looked.sums:
            changed = {"figure": f"{names.spatial}_reference", "notes": "sFID: spatial features of mixed_6/conv"}
            put(f"{names.spatial}_reference", looked.sums[SPATIAL], spatial, given_spatial, record | changed)


def add_halves(figures: Figures, statistics: Artifact, size: int) -> None:
    """What one half of the real images scores against the other."""
    from vim_core.metrics.frechet import frechet_distance

    halves = [read(statistics.uri(name)) for name in HALVES]
    record = protocols.of_halves(statistics, (halves[0].count, halves[1].count), size)
    figures.put(record["figure"], frechet_distance(halves[0], halves[1]), record)


def _reference(statistics: Artifact) -> tuple[Gaussian, Gaussian | None]:
    from vim_core.metrics.reference import read_reference

    with io.local_copy(statistics.uri(REFERENCE)) as path:
        found = read_reference(path)
    if found.gaussian is None:
        raise DataError(f"{statistics.uri(REFERENCE)} has no statistics: run statistics again with --force")
    return found.gaussian, found.spatial


def _add_score(own: Figures, made: protocols.Made, looked: Looked, statistics: Artifact, rule: Convention) -> None:
    from vim_core.metrics.intervals import student_quantile

    if SCORES not in looked.sums:
        return
    sums = looked.sums[SCORES]
    splits = int(sums.counts.size)
    record = protocols.of_score(made, statistics, sums, looked.size, rule.split_description(splits))
    value, deviation = sums.score()
    half = student_quantile(splits - 1) * deviation / (splits - 1) ** 0.5 if splits > 1 else 0.0
    interval = (value - half, value + half) if splits > 1 else None
    own.put(record["figure"], value, record, interval, PARTS.format(parts=f"{splits} splits"))
    own.add(
        {f"{record['figure']}_std": deviation},
        {f"{record['figure']}_std": record | {"figure": f"{record['figure']}_std"}},
    )
