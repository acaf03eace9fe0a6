"""Figures of reconstructions, codes and samples against real images, each with its protocol (Beam)."""

from __future__ import annotations

import json
from typing import Any

from components import lineage
from components.api import Artifact, Context, Inputs, Outcome
from components.measuring.shards import DEVICE
from components.scoring import parts, protocols, samples
from components.scoring.figures import Figures as Figures
from vim_core import io
from vim_core.config import ScoreConfig
from vim_core.errors import DataError, LineageError

VERSION = 2
INPUTS = {
    "images": "ingest",
    "codes": "tokenize",
    "reconstructions": "reconstruct",
    "samples": "sample?",
    "statistics": "statistics?",
    "classifier": "classify?",
}


def run(config: ScoreConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Score the shards in Beam, then put the parts together.

    Figures whose inputs the preset does not have are absent. Files: `scores.json`, `reconstructions.parquet` (key,
    psnr_db, ssim) and, with samples and a classifier, `moments/samples.npz`. Raises `LineageError` for inputs that
    do not belong together and `DataError` where keys of images and reconstructions do not match.
    """
    from components.beam_jobs import run_shards

    check_lineage(inputs)
    jobs = jobs_of(config, inputs, ctx)
    run_shards(ctx.run, jobs, parts.measure, parts.finished, ctx.progress)
    pairs = [job for job in jobs if isinstance(job, parts.Pair)]
    judged = [job for job in jobs if isinstance(job, parts.Judged)]
    figures = Figures()
    _add_reconstructions(figures, pairs, inputs, ctx)
    _add_codes(figures, config, inputs, ctx.run.code_cache)
    if judged:
        samples.add_samples(figures, judged, inputs, ctx)
    if config.batch_file and "samples" in inputs:
        samples.write_batch_file(inputs["samples"], ctx, int(inputs["images"].manifest.config["max_pixels"]))
    record = {"metrics": figures.metrics, "protocols": figures.protocols}
    io.write_bytes(ctx.path("scores.json"), json.dumps(record, sort_keys=True, indent=2).encode())
    device = judged[0].tap.device if judged else DEVICE
    numeric = {"device": device, "dtype": "fp32", "threads": pairs[0].threads}
    return Outcome(metrics=figures.metrics, protocols=figures.protocols, numeric=numeric)


def check_lineage(inputs: Inputs) -> None:
    """Raise `LineageError` unless all inputs go back to the same images, tokenizer and classifier."""
    images = inputs["images"].digest
    _check_tokenizers(inputs)
    sources = {"images": images, "reconstructions": str(inputs["reconstructions"].properties["images"])}
    for name in ("codes", "statistics", "classifier"):
        if name in inputs:
            sources[name] = inputs[name].manifest.inputs["images"].digest
    _same("images", sources, "images")
    network = samples.network_of(inputs)
    if "statistics" in inputs and "classifier" in inputs and network["kind"] == "classifier":
        digests = {"classifier": inputs["classifier"].digest, "statistics": str(network["digest"])}
        _same("classifier", digests, "classifier")


def _check_tokenizers(inputs: Inputs) -> None:
    """Pictures of one decoder, and codes of the encoder and codebook that belong to it."""
    given = {n: inputs[n].properties for n in ("codes", "reconstructions", "samples") if n in inputs}
    pictures = {name: str(found["tokenizer"]) for name, found in given.items() if name != "codes"}
    codes = lineage.of_codes(given["codes"])
    for name in pictures:
        if not lineage.same_codes(codes, lineage.of_codes(given[name])):
            _same("tokenizer", {"codes": codes["tokenizer"], name: pictures[name]}, "codes")
    _same("tokenizer", pictures, "reconstructions")


def _same(what: str, digests: dict[str, str], leader: str) -> None:
    for name, digest in digests.items():
        if digest != digests[leader]:
            raise LineageError(
                f"score: {name} was made with {what} {digest[:12]}, {leader} with {digests[leader][:12]}: "
                "run the pipeline again so that both come from one"
            )


def jobs_of(config: ScoreConfig, inputs: Inputs, ctx: Context) -> list[parts.Pair | parts.Judged]:
    """One job per shard of reconstructions and of samples. Raises `DataError` for shards without their originals."""
    return [*_pairs(config, inputs, ctx), *_judged(config, inputs, ctx)]


def _pairs(config: ScoreConfig, inputs: Inputs, ctx: Context) -> list[parts.Pair]:
    images, made = inputs["images"], inputs["reconstructions"]
    prefix = "images/test-"
    originals = {e.name for e in images.manifest.files if e.name.startswith(prefix)}
    names = sorted(e.name for e in made.manifest.files if e.name.startswith(prefix))
    whole = not made.manifest.config.get("limit", 0)
    unpaired = (set(names) ^ originals) if whole else (set(names) - originals)
    if unpaired or not names:
        first = min(unpaired, default=f"{prefix}*")
        raise DataError(f"score: {first} is not both an original and a reconstruction: run reconstruct again")
    return [
        parts.Pair(
            result=_result(config, ctx, "reconstructions", name),
            name=name,
            originals=images.uri(name),
            reconstructions=made.uri(name),
            whole=whole,
            **_shared(config, images, ctx),
        )
        for name in names
    ]


def _judged(config: ScoreConfig, inputs: Inputs, ctx: Context) -> list[parts.Judged]:
    tap = samples.tap_of(inputs, ctx)
    if "samples" not in inputs or tap is None:
        return []
    made, classifier, asked = inputs["samples"], inputs.get("classifier"), samples.asked(inputs)
    names = sorted(e.name for e in made.manifest.files if e.name.startswith("images/"))
    return [
        parts.Judged(
            result=_result(config, ctx, "samples", name, tap.device),
            name=name,
            samples=made.uri(name),
            weights=classifier.uri("model.safetensors") if classifier else "",
            config=classifier.uri("config.json") if classifier else "",
            tap=tap,
            splits=asked["splits"],
            features=asked["features"],
            **_shared(config, inputs["images"], ctx),
        )
        for name in names
    ]


def _shared(config: ScoreConfig, images: Artifact, ctx: Context) -> dict[str, Any]:
    from components.beam_jobs import threads_of

    limit = int(images.manifest.config["max_pixels"])
    return {"batch": config.batch, "max_pixels": limit, "device": DEVICE, "threads": threads_of(ctx.run)}


def _result(config: ScoreConfig, ctx: Context, part: str, name: str, device: str = DEVICE) -> str:
    """Where a shard's result lies in the work folder; the numeric class is part of it (contract 11)."""
    from components.beam_jobs import numeric_name, threads_of

    place = numeric_name(device, threads_of(ctx.run), config.batch)
    return io.join(ctx.work, place, part, name.rsplit("/", 1)[-1].removesuffix(".parquet"))


def _add_reconstructions(figures: Figures, pairs: list[parts.Pair], inputs: Inputs, ctx: Context) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [parts.load(job.result) for job in pairs]
    columns = {name: [x for record in records for x in record[name]] for name in ("keys", "psnr_db", "ssim")}
    if not columns["keys"]:
        raise DataError("score: there is no reconstruction: the test split is empty, raise ingest.test_fraction")
    whole = columns["ssim"] or [None] * len(columns["keys"])
    table = pa.table({"key": columns["keys"], "psnr_db": columns["psnr_db"], "ssim": pa.array(whole, pa.float64())})
    with io.staged(ctx.path("reconstructions.parquet")) as path:
        pq.write_table(table, path, compression="zstd")
    size = max(int(record["size"]) for record in records)
    known = protocols.of_reconstructions(inputs["images"], inputs["reconstructions"], len(columns["keys"]), size)
    values = {name: float(np.mean(columns[name])) for name in ("psnr_db", "ssim") if columns[name]}
    figures.add(values, {name: known[name] for name in values})


def _add_codes(figures: Figures, config: ScoreConfig, inputs: Inputs, cache: str = "") -> None:
    from components.tokenizing.reading import code_files
    from vim_core.data.codes import CodeTable
    from vim_core.metrics import codebook

    codes = inputs["codes"]
    table = CodeTable(code_files(codes, "test"), cache)
    vocabulary = int(codes.properties["vocabulary"])
    table.check(str(codes.properties["tokenizer"]), vocabulary=vocabulary)
    plain = table.codes[table.view == 0]
    values = {
        "codebook_usage": codebook.usage(plain, vocabulary, config.usage_batch),
        "perplexity": codebook.perplexity(codebook.histogram(plain, vocabulary)),
    }
    figures.add(values, protocols.of_codes(codes, len(plain), config.usage_batch))
