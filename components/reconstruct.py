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
    from vim_core.data.image_tables import ImageRow

VERSION = 1
INPUTS = {"images": "ingest", "tokenizer": "quantize"}

SOURCE = "reconstruction"


@dataclass(frozen=True)
class ReconstructShard:
    """The first `rows` images of one file, the URI `result` of their reconstructions, and the tokenizer's files."""

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
    from components.engines.attempts import publish
    from components.engines.beam import run_shards
    from vim_core.data.image_tables import ImageTable, image_digest

    shards = make_shards(config, inputs, ctx)
    run_shards(ctx.run, shards, reconstruct_shard, finished, ctx.progress)
    for shard in shards:
        publish(ctx, shard.result, shard.name)
    images, tokenizer = inputs["images"], inputs["tokenizer"]
    count = sum(shard.rows for shard in shards)
    return Outcome(
        metrics={"images": float(count)},
        properties={
            **lineage.tokenizer_digests(tokenizer),
            "images": images.digest,
            "classes": images.properties["classes"],
            "splits": {"test": count},
            "image_size": [int(tokenizer.properties["image_size"])] * 2,
        },
        numeric={"device": shards[0].device, "dtype": "fp32", "threads": shards[0].threads},
        rows={shard.name: shard.rows for shard in shards},
        digest=image_digest({"test": ImageTable([shard.result for shard in shards])}),
    )


def make_shards(config: ReconstructConfig, inputs: Inputs, ctx: Context) -> list[ReconstructShard]:
    """One shard per file of held-out images, up to the limit."""
    from components.engines.devices import beam_device, beam_threads, numeric_folder
    from vim_core.data.image_tables import open_parquet

    images, tokenizer = inputs["images"], inputs["tokenizer"]
    device, threads = beam_device(ctx.run), beam_threads(ctx.run)
    folder = numeric_folder(device, threads, int(tokenizer.properties["encode"]["batch"]))
    shards: list[ReconstructShard] = []
    left = config.limit
    for name in sorted(e.name for e in images.manifest.files if e.name.startswith("images/test-")):
        uri = images.uri(name)
        rows = int(open_parquet(uri).metadata.num_rows)
        if config.limit:
            rows, left = min(rows, left), left - min(rows, left)
            if not rows:
                continue
        shards.append(
            ReconstructShard(
                name=name,
                images=uri,
                rows=rows,
                result=io.join(ctx.work, folder, name),
                weights=tokenizer.uri("model.safetensors"),
                config=tokenizer.uri("config.json"),
                device=device,
                threads=threads,
                max_pixels=int(images.manifest.config["max_pixels"]),
            )
        )
    if not sum(shard.rows for shard in shards):
        raise DataError("reconstruct: the image table has no held-out images; raise ingest.test_fraction")
    return shards


def finished(shard: ReconstructShard) -> bool:
    """True if an earlier attempt wrote this shard: its file appears under its name only when it is complete."""
    return io.exists(shard.result)


def reconstruct_shard(shard: ReconstructShard) -> str:
    """Encode and decode the images of one shard and write the reconstructions; returns the shard's name."""
    import numpy as np

    from components.engines.devices import cached_tokenizer, set_threads
    from vim_core.data.image_tables import ImageRow, ImageTable, write_sorted
    from vim_core.data.images import center_crop, decode, encode_png, from_tensor, to_tensor

    set_threads(shard.threads)
    tokenizer = cached_tokenizer(shard.weights, shard.config, shard.device)
    table = ImageTable([shard.images])

    def reconstructions() -> Iterator[ImageRow]:
        for start in range(0, shard.rows, tokenizer.encode_batch):
            rows = range(start, min(start + tokenizer.encode_batch, shard.rows))
            images = [center_crop(decode(table.image(row), shard.max_pixels), tokenizer.image_size) for row in rows]
            pixels = to_tensor(np.stack(images))  # [b, 3, H, W]
            decoded = from_tensor(tokenizer.decode(tokenizer.encode(pixels)))  # uint8 [b, H, W, 3]
            for row, image in zip(rows, decoded, strict=True):
                height, width = image.shape[:2]
                yield ImageRow(table.keys[row], int(table.labels[row]), encode_png(image), height, width, SOURCE)

    write_sorted(shard.result, reconstructions())
    return shard.name
