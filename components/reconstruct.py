"""Held-out images through the tokenizer and back (Beam): an image table with the keys of the originals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.contract import lineage
from components.contract.api import Context, Inputs, Outcome
from vim_core.config import ReconstructConfig
from vim_core.errors import DataError
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.data.image_tables import ImageRow, ImageTable
    from vim_core.models.vit_vqgan import Tokenizer

VERSION = 1
INPUTS = {"images": "ingest", "tokenizer": "quantize"}

SOURCE = "reconstruction"


@dataclass(frozen=True)
class Job:
    """One shard: the first `rows` of its images, where the reconstructions go, and the tokenizer."""

    name: str
    images: str
    rows: int
    result: str
    weights: str
    config: str
    device: str
    threads: int
    max_pixels: int


def run(config: ReconstructConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Files `images/test-NNNNN-of-NNNNN.parquet` of PNG images at the tokenizer's size.

    With `reconstruct.limit`, the first images in table order (random ones: shards are made by hash), and no file for
    shards beyond them. Finished shards of an earlier attempt are kept.

    Raises:
        DataError: there are no held-out images, or one cannot be decoded.
    """
    from components.engines.beam.runner import run_shards
    from components.engines.shards import publish
    from vim_core.data.image_tables import ImageTable, image_digest

    jobs = make_jobs(config, inputs, ctx)
    run_shards(ctx.run, jobs, reconstruct, finished, ctx.progress)
    for job in jobs:
        publish(ctx, job.result, job.name)
    images, tokenizer = inputs["images"], inputs["tokenizer"]
    count = sum(job.rows for job in jobs)
    return Outcome(
        metrics={"images": float(count)},
        properties={
            **lineage.of_tokenizer(tokenizer),
            "images": images.digest,
            "classes": images.properties["classes"],
            "splits": {"test": count},
            "image_size": [int(tokenizer.properties["image_size"])] * 2,
        },
        numeric={"device": jobs[0].device, "dtype": "fp32", "threads": jobs[0].threads},
        rows={job.name: job.rows for job in jobs},
        digest=image_digest({"test": ImageTable([job.result for job in jobs])}),
    )


def make_jobs(config: ReconstructConfig, inputs: Inputs, ctx: Context) -> list[Job]:
    """One job per shard of held-out images, up to the limit."""
    from components.engines.devices import beam_device, beam_threads, numeric_folder
    from vim_core.data.image_tables import open_parquet

    images, tokenizer = inputs["images"], inputs["tokenizer"]
    device, threads = beam_device(ctx.run), beam_threads(ctx.run)
    place = numeric_folder(device, threads, int(tokenizer.properties["encode"]["batch"]))
    jobs: list[Job] = []
    left = config.limit
    for name in sorted(e.name for e in images.manifest.files if e.name.startswith("images/test-")):
        uri = images.uri(name)
        rows = int(open_parquet(uri).metadata.num_rows)
        if config.limit:
            rows, left = min(rows, left), left - min(rows, left)
            if not rows:
                continue
        jobs.append(
            Job(
                name=name,
                images=uri,
                rows=rows,
                result=io.join(ctx.work, place, name),
                weights=tokenizer.uri("model.safetensors"),
                config=tokenizer.uri("config.json"),
                device=device,
                threads=threads,
                max_pixels=int(images.manifest.config["max_pixels"]),
            )
        )
    if not sum(job.rows for job in jobs):
        raise DataError("reconstruct: the image table has no held-out images; raise ingest.test_fraction")
    return jobs


def finished(job: Job) -> bool:
    """Whether an earlier attempt wrote this shard; a file appears under its name only when it is whole."""
    return io.exists(job.result)


def reconstruct(job: Job) -> str:
    """Encode and decode one shard, write the images and give its name."""
    from components.engines.devices import cached_tokenizer, set_threads
    from vim_core.data.image_tables import ImageTable, write_sorted

    set_threads(job.threads)
    tokenizer = cached_tokenizer(job.weights, job.config, job.device)
    write_sorted(job.result, _rows(job, ImageTable([job.images]), tokenizer))
    return job.name


def _rows(job: Job, table: ImageTable, tokenizer: Tokenizer) -> Iterator[ImageRow]:
    import numpy as np

    from vim_core.data.image_tables import ImageRow
    from vim_core.data.images import center_crop, decode, encode_png, from_tensor, to_tensor

    for start in range(0, job.rows, tokenizer.encode_batch):
        rows = range(start, min(start + tokenizer.encode_batch, job.rows))
        pixels = [center_crop(decode(table.image(row), job.max_pixels), tokenizer.image_size) for row in rows]
        made = from_tensor(tokenizer.decode(tokenizer.encode(to_tensor(np.stack(pixels)))))
        for row, image in zip(rows, made, strict=True):
            height, width = image.shape[:2]
            yield ImageRow(table.keys[row], int(table.labels[row]), encode_png(image), height, width, SOURCE)
