"""Image table to code table (Beam): every image and its augmented views through the tokenizer's one encode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from components import lineage
from components.api import Artifact, Context, Inputs, Outcome
from vim_core import io
from vim_core.config import AugmentConfig, TokenizeConfig

if TYPE_CHECKING:
    from vim_core.data.codes import CodeMeta
    from vim_core.data.images import Pixels
    from vim_core.data.tables import ImageTable

VERSION = 1
INPUTS = {"images": "ingest", "tokenizer": "quantize"}
CODES_OF = ("tokenizer",)
"""Its decoder plays no part in what comes out."""

SPLITS = ("train", "test")

BATCHES = 4
"""Encode batches prepared at once; more would only hold more pixels in memory."""


@dataclass(frozen=True)
class Job:
    """One shard: its images, where its codes go, which views to make, and the tokenizer."""

    name: str
    images: str
    result: str
    meta: CodeMeta
    seed: int
    augment: AugmentConfig
    weights: str
    config: str
    device: str
    threads: int
    max_pixels: int


def run(config: TokenizeConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Files `codes/<split>-NNNNN-of-NNNNN.parquet`: all views of the training images, the plain view of the others.

    Finished shards of an earlier attempt on the same kind of device are kept.

    Raises:
        DataError: an image of the table cannot be decoded, or a file is missing.
    """
    from components.beam_jobs import publish, run_shards

    jobs = make_jobs(config, inputs, ctx)
    run_shards(ctx.run, jobs, tokenize, finished, ctx.progress)
    for job in jobs:
        publish(ctx, job.result, job.name)
    return _outcome(config, inputs, jobs)


def make_jobs(config: TokenizeConfig, inputs: Inputs, ctx: Context) -> list[Job]:
    """One job per image shard."""
    from components.beam_jobs import device_of, numeric_name, threads_of

    images, tokenizer = inputs["images"], inputs["tokenizer"]
    device, threads = device_of(ctx.run), threads_of(ctx.run)
    place = numeric_name(device, threads, int(tokenizer.properties["encode"]["batch"]))
    jobs = []
    for split in SPLITS:
        meta = _meta(config, tokenizer, split)
        for entry in sorted(e.name for e in images.manifest.files if e.name.startswith(f"images/{split}-")):
            name = entry.replace("images/", "codes/", 1)
            jobs.append(
                Job(
                    name=name,
                    images=images.uri(entry),
                    result=io.join(ctx.work, place, name),
                    meta=meta,
                    seed=config.seed,
                    augment=config.augment,
                    weights=tokenizer.uri("model.safetensors"),
                    config=tokenizer.uri("config.json"),
                    device=device,
                    threads=threads,
                    max_pixels=int(images.manifest.config["max_pixels"]),
                )
            )
    return jobs


def finished(job: Job) -> bool:
    """Whether an earlier attempt wrote this shard; a file appears under its name only when it is whole."""
    return io.exists(job.result)


def tokenize(job: Job) -> str:
    """Encode one shard, write its codes and give its name."""
    import numpy as np

    from components import beam_jobs
    from vim_core.data.codes import write_codes
    from vim_core.data.images import to_tensor
    from vim_core.data.tables import ImageTable

    beam_jobs.set_threads(job.threads)
    tokenizer = beam_jobs.tokenizer(job.weights, job.config, job.device)
    table = ImageTable([job.images])
    rows: list[int] = []
    views: list[int] = []
    codes = [np.empty((0, job.meta.tokens), dtype=np.int64)]
    for chunk in _chunks(job, table, tokenizer.image_size, tokenizer.encode_batch * BATCHES):
        rows += [row for row, _, _ in chunk]
        views += [view for _, view, _ in chunk]
        codes.append(tokenizer.encode(to_tensor(np.stack([pixels for _, _, pixels in chunk]))).numpy())
    write_codes(
        job.result,
        keys=[table.keys[row] for row in rows],
        labels=table.labels[rows],
        views=np.array(views, dtype=np.int64),
        codes=np.concatenate(codes),
        meta=job.meta,
    )
    return job.name


def _chunks(job: Job, table: ImageTable, size: int, most: int) -> Iterator[Sequence[tuple[int, int, Pixels]]]:
    """All (row, view, pixels [S, S, 3]) of a shard, at most `most` at a time; each image is decoded once."""
    from vim_core.data.images import decode

    chunk: list[tuple[int, int, Pixels]] = []
    for row, key in enumerate(table.keys):
        image = decode(table.image(row), job.max_pixels)
        for view in range(job.meta.views):
            chunk.append((row, view, prepared(image, size, job, key, view)))
            if len(chunk) == most:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


def prepared(image: Pixels, size: int, job: Job, key: str, view: int) -> Pixels:
    """What is encoded: the centre square for view 0, else an augmentation keyed by (seed, key, view)."""
    from vim_core.data.augment import augmented
    from vim_core.data.images import square

    if view == 0:
        return square(image, size)
    return augmented(image, size, job.augment, (job.seed, key, view))


def _meta(config: TokenizeConfig, tokenizer: Artifact, split: str) -> CodeMeta:
    from vim_core.data.codes import CodeMeta

    height, width = tokenizer.properties["grid"]
    views = config.views if split == "train" else 1
    return CodeMeta(
        split=split,
        grid=(int(height), int(width)),
        vocabulary=int(tokenizer.properties["vocabulary"]),
        tokenizer=tokenizer.digest,
        views=views,
        augmentation=[{}] + [{**asdict(config.augment), "seed": config.seed} for _ in range(views - 1)],
    )


def _outcome(config: TokenizeConfig, inputs: Inputs, jobs: list[Job]) -> Outcome:
    from vim_core.data.tables import open_parquet

    images, tokenizer = inputs["images"], inputs["tokenizer"]
    rows = {job.name: int(open_parquet(job.result).metadata.num_rows) for job in jobs}
    meta = jobs[0].meta
    properties: dict[str, Any] = {
        **lineage.of_tokenizer(tokenizer),
        "images": images.digest,
        "grid": list(meta.grid),
        "vocabulary": meta.vocabulary,
        "views": config.views,
        "classes": images.properties["classes"],
        "splits": {split: sum(rows[job.name] for job in jobs if job.meta.split == split) for split in SPLITS},
        "augmentation": meta.augmentation,
    }
    encode = tokenizer.properties["encode"]
    numeric = {"device": jobs[0].device, "dtype": "fp32", "encode_batch": encode["batch"], "threads": jobs[0].threads}
    metrics = {
        "tokens": float(sum(rows.values()) * meta.tokens),
        "images": float(sum(rows[job.name] // job.meta.views for job in jobs)),
    }
    return Outcome(metrics=metrics, properties=properties, numeric=numeric, rows=rows)
