"""Figures of reconstructions, codes and generated images against real images, each with its protocol (Beam)."""

from __future__ import annotations

import json

from components.contract import lineage
from components.contract.api import Artifact, Context, Inputs, Outcome
from components.score import neighbours, protocols, reconstructions, samples
from components.score.feature_cache import distance_of_sides
from components.score.measure import measure
from components.score.partition import SAMPLES, image_sets, make_shards, network_record
from components.score.protocols import JACKKNIFE, Figures
from components.score.samples import SetStatistics
from components.score.shards import RealShard, ReconstructionShard, SampleShard, finished
from components.statistics.networks import DEVICE
from components.statistics.shards import HALVES, read_moments
from vim_core.config import ScoreConfig
from vim_core.storage import io

VERSION = 3
INPUTS = {
    "images": "ingest",
    "codes": "tokenize",
    "reconstructions": "reconstruct",
    "samples": "sample?",
    "accepted": "select?",
    "statistics": "statistics?",
    "classifier": "classify?",
}


def source_state(config: ScoreConfig) -> str:
    """Version of the images at `score.samples_from`, as text. Raises `DataError` where there are none."""
    from components.exchange.tables import table_state

    return table_state(config.samples_from) if config.samples_from else ""


def run(config: ScoreConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Measure the shards in Beam, each image read once, then merge them into figures.

    Figures whose inputs the preset does not have are absent. Files: `scores.json`, `reconstructions.parquet` (key,
    psnr_db, ssim, lpips if configured), with generated images and a network `moments/<set>.npz`, and with
    `score.neighbours` those of `neighbours.add_neighbours`.

    Raises:
        LineageError: inputs do not belong together, or the network that selected samples would evaluate them.
        DataError: keys of images and reconstructions do not match.
    """
    from components.engines.beam import run_shards

    check_lineage(inputs)
    sets = image_sets(config, inputs, ctx)
    shards = make_shards(config, inputs, ctx, sets)
    run_shards(ctx.run, shards, measure, finished, ctx.progress)
    figures, pairs = Figures(), [shard for shard in shards if isinstance(shard, ReconstructionShard)]
    reconstructions.add_reconstructions(figures, pairs, config, inputs, ctx)
    reconstructions.add_codes(figures, config, inputs, ctx.run.code_cache)
    pictures: frozenset[str] = frozenset()
    for images in sets:
        own = [shard for shard in shards if isinstance(shard, SampleShard) and shard.set_name == images.name]
        if not own:
            continue
        merged = samples.add_samples(figures, images, own, config, inputs, ctx)
        if images.name != SAMPLES:
            continue
        if "statistics" in inputs:
            real = [shard for shard in shards if isinstance(shard, RealShard)]
            _add_real_vs_real(figures, merged, real, inputs["statistics"], config.groups)
        if config.neighbours > 0:
            neighbours.add_neighbours(figures, merged, pairs, config, inputs, ctx)
            pictures = frozenset({neighbours.PICTURE})
    if config.batch_file and sets:
        from components.exchange.tables import export_table

        export_table(sets[0].uris, ctx.path("batch.npz"))
    record = {"metrics": figures.metrics, "protocols": figures.protocols}
    io.write_bytes(ctx.path("scores.json"), json.dumps(record, sort_keys=True, indent=2).encode())
    device = next((shard.spec.device for shard in shards if isinstance(shard, SampleShard)), DEVICE)
    numeric = {"device": device, "dtype": "fp32", "threads": pairs[0].threads}
    return Outcome(metrics=figures.metrics, protocols=figures.protocols, numeric=numeric, extras=pictures)


def _add_real_vs_real(
    figures: Figures, samples: SetStatistics, shards: list[RealShard], statistics: Artifact, groups: int
) -> None:
    """Add `<distance>_real_vs_real`: between the shards' two sets of real images, else between the halves of all."""
    from vim_core.metrics.frechet import frechet_distance

    if shards:
        results = [shard.result for shard in shards]
        value, interval, counts = distance_of_sides(results, groups if shards[0].cache_features else 0)
        compares = "real images with other real images, both drawn by a hash of their keys"
        reference, notes = "others of the", "the floor of the samples' figure: as many images on either side"
        if counts != (samples.count, int(statistics.properties["count"])):
            notes = "above the floor of the samples' figure: there are fewer real images, in its ratio of counts"
    else:
        halves = [read_moments(statistics.uri(name)) for name in HALVES]
        value, interval, counts = frechet_distance(halves[0], halves[1]), None, (halves[0].count, halves[1].count)
        compares = "one half of the real images with the other, divided by a hash of their keys"
        reference = "the other half of the"
        notes = "the floor; the smaller the sets, the further apart they lie, so mind the counts when comparing"
    record = protocols.real_vs_real_record(statistics, counts, samples.size, compares, reference, notes)
    figures.put(value, record, interval, JACKKNIFE.format(groups=groups, fixed="on both sides"))


def check_lineage(inputs: Inputs) -> None:
    """Raise `LineageError` unless all inputs go back to the same images, tokenizer and classifier."""
    # images of one decoder, and codes of the encoder and codebook that belong to it
    images = {name: inputs[name].properties for name in ("reconstructions", "samples", "accepted") if name in inputs}
    tokenizers = {name: str(properties["tokenizer"]) for name, properties in images.items()}
    codes = lineage.recorded_digests(inputs["codes"].properties)
    for name, properties in images.items():
        if not lineage.same_codes(codes, lineage.recorded_digests(properties)):
            lineage.check_same("score", "tokenizer", {"codes": codes["tokenizer"], name: tokenizers[name]}, "codes")
    lineage.check_same("score", "tokenizer", tokenizers, "reconstructions")
    origins = {"images": inputs["images"].digest, "reconstructions": str(images["reconstructions"]["images"])}
    for name in ("codes", "statistics", "classifier"):
        if name in inputs:
            origins[name] = inputs[name].manifest.inputs["images"].digest
    lineage.check_same("score", "images", origins, "images")
    network = network_record(inputs)
    if "statistics" in inputs and "classifier" in inputs and network["kind"] == "classifier":
        digests = {"classifier": inputs["classifier"].digest, "statistics": str(network["digest"])}
        lineage.check_same("score", "classifier", digests, "classifier")
    if "accepted" not in inputs:
        return
    selected = inputs["accepted"].properties
    if "samples" in inputs and "samples" in selected:
        digests = {"samples": inputs["samples"].digest, "accepted": str(selected["samples"])}
        lineage.check_same("score", "samples", digests, "samples")
    lineage.check_evaluators("score", str(selected["selector"]), inputs)
