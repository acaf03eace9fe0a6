"""Reference statistics of real images (Beam): moments of a network's features, per shard, per half and in all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from components.contract.api import Context, Inputs, Outcome
from components.statistics.shards import (
    BATCH,
    DEVICE,
    FEATURES,
    HALVES,
    MOMENTS,
    SCORES,
    SPATIAL,
    Job,
    finished,
    make_jobs,
    measure,
    tap_of,
    whole,
)
from vim_core.config import StatisticsConfig
from vim_core.errors import DataError
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.metrics.moments import Moments

VERSION = 2
INPUTS = {"images": "ingest", "classifier": "classify?"}

REFERENCE = "reference.npz"
"""Logical name of the reference file's statistics, as mu and sigma."""

__all__ = [
    "DEVICE",
    "FEATURES",
    "HALVES",
    "INPUTS",
    "MOMENTS",
    "REFERENCE",
    "SCORES",
    "SPATIAL",
    "VERSION",
    "Job",
    "unused",
    "whole",
]


def unused(config: StatisticsConfig) -> frozenset[str]:
    """Inputs that play no part: another network's statistics stay as they are when the classifier is trained again."""
    return frozenset() if config.network == "classifier" else frozenset({"classifier"})


def source_state(config: StatisticsConfig) -> str:
    """What the reference file is, as text: part of the fingerprint unless its hash is. Raises `DataError` for none."""
    from components.statistics.published import state

    return state(config.reference) if config.reference and not config.reference_sha256 else ""


def run(config: StatisticsConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Files `moments/<split>-NNNNN.npz` per shard, `moments/<split>.npz`, `moments/half-0.npz` and `half-1.npz`.

    Both the reference split and the splits of the halves are measured. Halves are chosen by a hash of the key. In the
    same pass, if asked for: `inception_score/…`, `features/…`, `spatial/…` of the reference split, per shard and in
    all. With a reference file, `reference.npz` holds its statistics, measured here where it has images alone;
    `export/<split>.npz` are the split's in the same form. Finished shards of an earlier attempt are kept.

    Raises:
        ConfigError: there are no weights for the network, or there is no such network.
        DataError: a split or a half has fewer than two images, an image cannot be decoded, or the reference is another.
    """
    from components.engines.shards import publish
    from components.statistics import published
    from vim_core.features import check_spec

    check_spec(tap_of(config, inputs, ctx))
    reference = published.read(config)
    images = reference is not None and published.wants_images(config, reference)
    jobs = make_jobs(config, inputs, ctx, images)
    merged = sorted({name for job in jobs for name in job.targets} | {whole(config.split), *HALVES})
    _measure(jobs, merged, ctx)
    for job in jobs:
        for file, name in job.published:
            publish(ctx, file, name)
    sets = {name: read(ctx.path(name)) for name in merged if name.startswith(f"{MOMENTS}/")}
    _check_counts(config, sets)
    total = sets[whole(config.split)]
    properties = _properties(config, inputs, jobs[0], total)
    if reference is not None:
        properties["reference"] = published.write(config, ctx, reference, _of_images(merged, ctx), total.dim)
    if config.export:
        published.export(ctx.path(f"export/{config.split}.npz"), total)
    return Outcome(
        metrics={"count": float(total.count), **_real_score(config, properties["network"], ctx)},
        properties=properties,
        numeric={"device": jobs[0].tap.device, "dtype": "fp32", "threads": jobs[0].threads},
    )


def _of_images(merged: list[str], ctx: Context) -> dict[str, Moments]:
    """Moments of the reference file's own images by kind, where they were measured."""
    kinds = [kind for kind in (MOMENTS, SPATIAL) if whole(BATCH, kind) in merged]
    return {kind: read(ctx.path(whole(BATCH, kind))) for kind in kinds}


def read(uri: str) -> Moments:
    """Moments as a file of this component holds them."""
    from vim_core.metrics.moments import Moments

    return Moments.from_bytes(io.read_bytes(uri))


def _check_counts(config: StatisticsConfig, sets: dict[str, Moments]) -> None:
    for name, moments in sets.items():
        if moments.count < 2:
            splits = " and ".join(config.halves) if name in HALVES else config.split
            raise DataError(f"statistics: {name} has {moments.count} images, needs 2: too few in split {splits}")


def _properties(config: StatisticsConfig, inputs: Inputs, job: Job, total: Moments) -> dict[str, Any]:
    from components.statistics.shards import loaded
    from vim_core.features import CLASSIFIER

    network: dict[str, Any] = {"kind": config.network, "digest": job.tap.sha256}
    if config.network != CLASSIFIER:
        tap = loaded(job.tap)
        network |= {"digest": tap.digest, "preprocessing": tap.preprocessing, "published": tap.published}
    return {
        "network": network,
        "images": inputs["images"].digest,
        "split": config.split,
        "halves": sorted(set(config.halves)),
        "count": total.count,
        "dim": total.dim,
        "half_rule": "sha256('half', key) mod 2",
    }


def _real_score(config: StatisticsConfig, network: dict[str, Any], ctx: Context) -> dict[str, float]:
    """Inception Score of the real images themselves."""
    from components.score.names import Names
    from vim_core.metrics.inception_score import ScoreSums

    if not config.score_splits:
        return {}
    names = Names.of(network)
    sums = ScoreSums.from_bytes(io.read_bytes(ctx.path(whole(config.split, SCORES))))
    return dict(zip((names.score, f"{names.score}_std"), sums.score(), strict=True))


def _measure(jobs: list[Job], merged: list[str], ctx: Context) -> None:
    import apache_beam as beam

    from components.engines.beam.runner import run_pipeline
    from components.engines.shards import finished_counter, start_progress
    from components.statistics.merging import merge_in_order

    start_progress(jobs, finished, ctx.progress)
    targets = {name: ctx.path(name) for name in merged}

    def build(pipeline: Any) -> None:
        spread = pipeline | "shards" >> beam.Create(jobs) | "spread" >> beam.Reshuffle()
        files = (
            spread
            | "measure" >> beam.Map(measure)
            | "files"
            >> beam.FlatMap(
                lambda job: [(name, (job.index, uri)) for name, uri in zip(job.targets, job.files, strict=True)]
            )
        )
        sets = files | "merge" >> beam.CombinePerKey(merge_in_order())
        _ = sets | "write" >> beam.MapTuple(lambda name, part: io.write_bytes(targets[name], part.to_bytes()))

    run_pipeline(ctx.run, build, ctx.progress, finished_counter(jobs, finished))
