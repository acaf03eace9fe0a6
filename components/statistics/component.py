"""Reference statistics of real images (Beam): moments of a network's features, per shard, per half and in all."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from components.contract.api import Context, Inputs, Outcome
from components.statistics.networks import FigureNames, cached_extractor, configured_spec
from components.statistics.shards import (
    HALVES,
    MOMENTS,
    REFERENCE,
    REFERENCE_IMAGES,
    SCORES,
    SPATIAL,
    StatisticsShard,
    finished,
    make_shards,
    measure,
    merged_name,
    read_moments,
)
from vim_core.config import StatisticsConfig
from vim_core.errors import DataError
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.metrics.frechet import Moments
    from vim_core.metrics.reference import Reference

VERSION = 2
INPUTS = {"images": "ingest", "classifier": "classify?"}


def unused(config: StatisticsConfig) -> frozenset[str]:
    """Return the unused inputs: statistics of another network do not depend on the classifier."""
    return frozenset() if config.network == "classifier" else frozenset({"classifier"})


def source_state(config: StatisticsConfig) -> str:
    """Size and version of the reference file in its store, '' if its hash is set. Raises `DataError` for no file."""
    if not config.reference or config.reference_sha256:
        return ""
    version = io.version(config.reference)
    if not version:
        raise DataError(f"statistics.reference={config.reference!r}: no such file")
    return version


def run(config: StatisticsConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Files `moments/<split>-NNNNN.npz` per shard, `moments/<split>.npz`, `moments/half-0.npz` and `half-1.npz`.

    Both the reference split and the splits of the halves are measured. Halves are chosen by a hash of the key. The
    same pass computes, where configured, `inception_score/…`, `features/…` and `spatial/…` of the reference split, per
    shard and in all. With a reference file, `reference.npz` holds its statistics, measured here if it has only images;
    `export/<split>.npz` are the split's in the same form. Finished shards of an earlier attempt are kept.

    Raises:
        ConfigError: there are no weights for the network, or there is no such network.
        DataError: a split or a half has fewer than two images, an image cannot be decoded, or the reference is another.
    """
    from components.engines.attempts import publish
    from vim_core.features import CLASSIFIER, check_spec
    from vim_core.metrics.reference import write_reference

    check_spec(configured_spec(config, inputs, ctx))
    reference = read_reference_file(config)
    measure_reference = reference is not None and needs_measuring(config, reference)
    shards = make_shards(config, inputs, ctx, measure_reference)
    merged = sorted({name for shard in shards for name in shard.targets} | {merged_name(config.split), *HALVES})
    _measure(shards, merged, ctx)
    for shard in shards:
        for file, name in shard.published:
            publish(ctx, file, name)
    moments = {name: read_moments(ctx.path(name)) for name in merged if name.startswith(f"{MOMENTS}/")}
    for name, part in moments.items():
        if part.count < 2:
            splits = " and ".join(config.halves) if name in HALVES else config.split
            raise DataError(f"statistics: {name} has {part.count} images, needs 2: too few in split {splits}")
    total = moments[merged_name(config.split)]
    spec = shards[0].spec
    network: dict[str, Any] = {"kind": config.network, "digest": spec.sha256}
    if config.network != CLASSIFIER:
        extractor = cached_extractor(spec)
        network |= {name: getattr(extractor, name) for name in ("digest", "preprocessing", "published")}
    properties = {
        "network": network,
        "images": inputs["images"].digest,
        "split": config.split,
        "halves": sorted(set(config.halves)),
        "count": total.count,
        "dim": total.dim,
        "half_rule": "sha256('half', key) mod 2",
    }
    if reference is not None:
        names = {kind: merged_name(REFERENCE_IMAGES, kind) for kind in (MOMENTS, SPATIAL)}
        measured = {kind: read_moments(ctx.path(name)) for kind, name in names.items() if name in merged}
        properties["reference"] = write_reference_file(config, ctx, reference, measured, total.dim)
    if config.export:
        with io.staged(ctx.path(f"export/{config.split}.npz")) as path:
            write_reference(str(path), total.gaussian())
    metrics = {"count": float(total.count)}
    if config.score_splits:
        from vim_core.metrics.inception_score import ScoreSums

        sums = ScoreSums.from_bytes(io.read_bytes(ctx.path(merged_name(config.split, SCORES))))
        score = FigureNames(network).score
        metrics[score], metrics[f"{score}_std"] = sums.score()
    numeric = {"device": spec.device, "dtype": "fp32", "threads": shards[0].threads}
    return Outcome(metrics=metrics, properties=properties, numeric=numeric)


def read_reference_file(config: StatisticsConfig) -> Reference | None:
    """The reference file, or None where none is set. Raises `DataError` for a missing, other or unusable one."""
    from vim_core.metrics.reference import read_reference

    if not config.reference:
        return None
    try:
        with io.local_copy(config.reference) as path:
            reference = read_reference(path)
    except FileNotFoundError:
        raise DataError(f"statistics.reference={config.reference!r}: no such file") from None
    if not reference.sha256.startswith(config.reference_sha256):
        wanted = f"statistics.reference_sha256={config.reference_sha256}"
        raise DataError(f"statistics.reference={config.reference!r}: sha256 is {reference.sha256[:16]}…, not {wanted}")
    return reference


def needs_measuring(config: StatisticsConfig, reference: Reference) -> bool:
    """True if the file's images must be measured: it lacks statistics, or precision and recall are configured."""
    lacking = reference.gaussian is None or (config.spatial and reference.spatial is None)
    return reference.images is not None and (lacking or config.features > 0)


def write_reference_file(
    config: StatisticsConfig, ctx: Context, reference: Reference, measured: dict[str, Moments], dim: int
) -> dict[str, Any]:
    """Write `reference.npz`: the file's own statistics, or those measured on its images, by kind. Returns its record.

    Raises:
        DataError: the statistics are of another network.
    """
    from vim_core.metrics.reference import write_reference

    gaussian, spatial = reference.gaussian, reference.spatial
    if gaussian is None and MOMENTS in measured:
        gaussian = measured[MOMENTS].gaussian()
    if gaussian is None:
        raise DataError(f"statistics.reference={config.reference!r}: has neither statistics nor images")
    if gaussian.dim != dim:
        raise DataError(
            f"statistics.reference={config.reference!r}: features of dimension {gaussian.dim}, {config.network} has "
            f"{dim}: they come from another network; FID's references need statistics.network=inception"
        )
    if spatial is None and SPATIAL in measured:
        spatial = measured[SPATIAL].gaussian()
    with io.staged(ctx.path(REFERENCE)) as path:
        write_reference(str(path), gaussian, spatial)
    origin = "its own mu and sigma" if reference.gaussian is not None else "measured on its images"
    images = reference.images[0] if reference.images else 0
    record = {"uri": config.reference, "sha256": reference.sha256, "count": gaussian.count or 0}
    return {**record, "statistics": origin, "images": images}


def _measure(shards: list[StatisticsShard], merged: list[str], ctx: Context) -> None:
    """Measure the shards in Beam and write the merged statistics under their logical names."""
    import apache_beam as beam

    from components.engines.attempts import finished_counter, start_progress
    from components.engines.beam import run_pipeline, same_code

    start_progress(shards, finished, ctx.progress)
    uris = {name: ctx.path(name) for name in merged}

    def by_target(shard: StatisticsShard) -> list[tuple[str, tuple[int, str]]]:
        return [(name, (shard.index, uri)) for name, uri in zip(shard.targets, shard.files, strict=True)]

    def build(pipeline: Any) -> None:
        measured = (
            pipeline
            | "shards" >> beam.Create(shards)
            | "spread" >> beam.Reshuffle()
            | same_code()
            | "measure" >> beam.Map(measure)
        )
        parts = measured | "files" >> beam.FlatMap(by_target) | "merge" >> beam.CombinePerKey(merge_in_order())
        _ = parts | "write" >> beam.MapTuple(lambda name, part: io.write_bytes(uris[name], part.to_bytes()))

    run_pipeline(ctx.run, build, ctx.progress, finished_counter(shards, finished))


@cache
def merge_in_order() -> Any:
    """A Beam CombineFn of (shard number, URI) pairs: the bits of its result do not depend on the order of arrival.

    Its class is defined on first use because Beam is slow to import.
    """
    import apache_beam as beam

    from vim_core.metrics.feature_statistics import Nodes, from_bytes, insert, total

    class MergeInOrder(beam.CombineFn):
        """Elements are (shard number, URI of its statistics); the result is the statistics of all."""

        def create_accumulator(self) -> Nodes[Any]:
            return {}

        def add_input(self, nodes: Nodes[Any], element: tuple[int, str]) -> Nodes[Any]:
            index, uri = element
            insert(nodes, 0, index, from_bytes(io.read_bytes(uri)))
            return nodes

        def merge_accumulators(self, accumulators: Any) -> Nodes[Any]:
            merged: Nodes[Any] = {}
            for nodes in accumulators:
                for (level, index), part in nodes.items():
                    insert(merged, level, index, part)
            return merged

        def extract_output(self, nodes: Nodes[Any]) -> Any:
            return total(nodes)

    return MergeInOrder()  # type: ignore[no-untyped-call]
