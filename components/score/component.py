"""Figures of reconstructions, codes and generated images against real images, each with its protocol (Beam)."""

from __future__ import annotations

import json

from components.contract import lineage
from components.contract.api import Context, Inputs, Outcome
from components.score import jobs, neighbours, real_vs_real, reconstructions, samples, shards
from components.score.figures import Figures as Figures
from components.score.sets import SAMPLES, ImageSet, sets_of
from components.statistics.shards import DEVICE
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
    """What lies at `score.samples_from`, as text. Raises `DataError` where there is nothing."""
    from components.exchange.tables import table_state

    return table_state(config.samples_from) if config.samples_from else ""


def run(config: ScoreConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Score the shards in Beam, each image read once, then put the parts together.

    Figures whose inputs the preset does not have are absent. Files: `scores.json`, `reconstructions.parquet` (key,
    psnr_db, ssim, lpips if asked for), with generated images and a network `moments/<set>.npz`, and with
    `score.neighbours` those of `neighbours.add_neighbours`. Raises `LineageError` for inputs that do not belong
    together or a judge that selected what it judges, and `DataError` where keys of images and reconstructions do not
    match.
    """
    from components.engines.beam.runner import run_shards

    check_lineage(inputs)
    sets = sets_of(config, inputs, ctx)
    work = jobs.jobs_of(config, inputs, ctx, sets)
    run_shards(ctx.run, work, shards.measure, shards.finished, ctx.progress)
    figures = Figures()
    pairs = [job for job in work if isinstance(job, shards.Pair)]
    network = samples.network_of(inputs)
    reconstructions.add_reconstructions(figures, pairs, config, inputs, ctx, network)
    reconstructions.add_codes(figures, config, inputs, ctx.run.code_cache)
    _add_sets(figures, sets, work, config, inputs, ctx)
    if config.batch_file and sets:
        from components.exchange.tables import export_table

        export_table(sets[0].uris, ctx.path("batch.npz"), (), int(inputs["images"].manifest.config["max_pixels"]))
    record = {"metrics": figures.metrics, "protocols": figures.protocols}
    io.write_bytes(ctx.path("scores.json"), json.dumps(record, sort_keys=True, indent=2).encode())
    judged = [job for job in work if isinstance(job, shards.Judged)]
    device = judged[0].tap.device if judged else DEVICE
    numeric = {"device": device, "dtype": "fp32", "threads": pairs[0].threads}
    extras = frozenset({neighbours.PICTURE}) if _sought(config, judged) else frozenset[str]()
    return Outcome(metrics=figures.metrics, protocols=figures.protocols, numeric=numeric, extras=extras)


def _add_sets(
    figures: Figures, sets: list[ImageSet], work: list[shards.Job], config: ScoreConfig, inputs: Inputs, ctx: Context
) -> None:
    """Figures of every set of generated images, and what real images score against real ones."""
    for of in sets:
        own = [job for job in work if isinstance(job, shards.Judged) and job.set == of.name]
        if not own:
            continue
        looked = samples.add_samples(figures, of, own, config, inputs, ctx)
        if of.name != SAMPLES:
            continue
        if "statistics" in inputs:
            real = [job for job in work if isinstance(job, shards.RealPair)]
            if real:
                real_vs_real.add_floor(figures, real, inputs, looked.count, config.groups, looked.size)
            else:
                samples.add_halves(figures, inputs["statistics"], looked.size)
        if _sought(config, own):
            pairs = [job for job in work if isinstance(job, shards.Pair)]
            neighbours.add_neighbours(figures, looked, pairs, config, inputs, ctx)


def _sought(config: ScoreConfig, judged: list[shards.Judged]) -> bool:
    """Whether the nearest training images of samples are sought."""
    return config.neighbours > 0 and any(job.set == SAMPLES for job in judged)


def check_lineage(inputs: Inputs) -> None:
    """Raise `LineageError` unless all inputs go back to the same images, tokenizer and classifier."""
    images = inputs["images"].digest
    _check_tokenizers(inputs)
    sources = {"images": images, "reconstructions": str(inputs["reconstructions"].properties["images"])}
    for name in ("codes", "statistics", "classifier"):
        if name in inputs:
            sources[name] = inputs[name].manifest.inputs["images"].digest
    lineage.check_same("score", "images", sources, "images")
    network = samples.network_of(inputs)
    if "statistics" in inputs and "classifier" in inputs and network["kind"] == "classifier":
        digests = {"classifier": inputs["classifier"].digest, "statistics": str(network["digest"])}
        lineage.check_same("score", "classifier", digests, "classifier")
    if {"accepted", "samples"} <= inputs.keys() and "samples" in inputs["accepted"].properties:
        digests = {"samples": inputs["samples"].digest, "accepted": str(inputs["accepted"].properties["samples"])}
        lineage.check_same("score", "samples", digests, "samples")
    if "accepted" in inputs:
        lineage.check_evaluators("score", str(inputs["accepted"].properties["selector"]), inputs)


def _check_tokenizers(inputs: Inputs) -> None:
    """Pictures of one decoder, and codes of the encoder and codebook that belong to it."""
    made = ("codes", "reconstructions", "samples", "accepted")
    given = {n: inputs[n].properties for n in made if n in inputs}
    pictures = {name: str(found["tokenizer"]) for name, found in given.items() if name != "codes"}
    codes = lineage.of_codes(given["codes"])
    for name in pictures:
        if not lineage.same_codes(codes, lineage.of_codes(given[name])):
            lineage.check_same("score", "tokenizer", {"codes": codes["tokenizer"], name: pictures[name]}, "codes")
    lineage.check_same("score", "tokenizer", pictures, "reconstructions")
