"""Draw images from the prior: codes by lanes, decoded by the tokenizer, written as an image table."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from components import lineage
from components.api import Artifact, Context, Inputs, Outcome
from vim_core import io
from vim_core.config import SampleConfig
from vim_core.errors import ConfigError, LineageError

if TYPE_CHECKING:
    from torch import Tensor

    from vim_core.data.tables import ImageRow, ImageTable
    from vim_core.sampling import Sampler

VERSION = 1
INPUTS = {"prior": "prior", "tokenizer": "quantize"}

PICTURE = "pictures/samples.png"
COLUMNS, MOST_ROWS = 8, 20
"""The picture shows this many samples a class, of this many classes at most."""


def run(config: SampleConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """An image table `images/samples-*.parquet`; shards finished before an interruption are kept.

    Raises:
        LineageError: the prior was trained on codes of another encoder or codebook.
        ConfigError: guidance is asked of a prior that never saw the null class.
    """
    import torch

    from vim_core.data.tables import ImageTable, image_digest
    from vim_core.models.vit_vqgan import load_tokenizer
    from vim_core.runtime import resolve_threads

    prior, tokenizer = inputs["prior"], inputs["tokenizer"]
    check(config, prior, tokenizer)
    torch.set_num_threads(resolve_threads(ctx.run.threads))
    sampler = _sampler(config, prior)
    decoder = load_tokenizer(tokenizer.uri("model.safetensors"), tokenizer.uri("config.json"))
    ctx.progress.start(config.count, "image")
    names, started, drawn = [], time.perf_counter(), 0
    for shard, (first, last) in enumerate(shards(config)):
        name = f"images/samples-{shard:05d}-of-{config.shards:05d}.parquet"
        drawn += _shard(config, sampler, decoder, first, last, io.join(ctx.work, name), ctx)
        io.write_bytes(ctx.path(name), io.read_bytes(io.join(ctx.work, name)))
        names.append(name)
        ctx.progress.advance(last, images_per_s=drawn / (time.perf_counter() - started))
    table = ImageTable([ctx.path(name) for name in names])
    rate = drawn / (time.perf_counter() - started)
    picture = _picture(table)
    io.write_bytes(ctx.path(PICTURE), picture)
    ctx.tracker.image("samples", picture)
    return Outcome(
        metrics={"count": float(len(table)), "images_per_s": rate},
        properties=_properties(config, prior, tokenizer),
        numeric={"dtype": config.precision, "threads": torch.get_num_threads()},
        rows={name: len(ImageTable([ctx.path(name)])) for name in names},
        extras=frozenset({PICTURE}),
        digest=image_digest({"samples": table}),
    )


def _picture(table: ImageTable) -> bytes:
    """The first samples of each class, one row a class; a single row without classes."""
    import numpy as np

    from vim_core.data.grids import grid_png
    from vim_core.data.images import decode, to_tensor

    labels = table.labels
    rows = [np.flatnonzero(labels == label)[:COLUMNS] for label in np.unique(labels)[:MOST_ROWS]]
    columns = min(map(len, rows))
    chosen = np.concatenate([some[:columns] for some in rows])
    return grid_png(to_tensor(np.stack([decode(table.image(int(row))) for row in chosen])), columns)


def check(config: SampleConfig, prior: Artifact, tokenizer: Artifact) -> None:
    """Refuse what does not fit together; see `run`."""
    trained_on, given = lineage.of_codes(prior.properties), lineage.of_tokenizer(tokenizer)
    if not lineage.same_codes(trained_on, given):
        raise LineageError(f"the prior {prior.digest[:12]} {lineage.difference(trained_on, given, 'belongs to')}")
    if config.guidance != 1.0 and not (prior.properties["null_trained"] and prior.properties["conditional"]):
        raise ConfigError(
            f"sample.guidance={config.guidance}: needs a class-conditional prior trained with "
            "prior.label_dropout > 0; set sample.guidance=1"
        )


def shards(config: SampleConfig) -> list[tuple[int, int]]:
    """Sample ranges [first, last) of the shards, contiguous."""
    bounds = [config.count * shard // config.shards for shard in range(config.shards + 1)]
    return list(pairwise(bounds))


def _sampler(config: SampleConfig, prior: Artifact) -> Sampler:
    import torch

    from vim_core.models.prior import load_prior
    from vim_core.sampling import Sampler, Settings

    model = load_prior(prior.uri("model.safetensors"), prior.uri("config.json"))
    settings = Settings(config.seed, config.temperature, config.top_k, config.top_p, config.guidance)
    return Sampler(model, settings, config.lanes, torch.bfloat16 if config.precision == "bf16" else torch.float32)


def lane_labels(sampler: Sampler, group: int) -> Tensor:
    """Balanced labels of a lane group: sample i has class i mod classes; the null class without classes."""
    import torch

    index = torch.arange(group * sampler.lanes, (group + 1) * sampler.lanes)
    classes = sampler.prior.shape.classes
    return index % classes if classes else torch.zeros_like(index)


def _shard(
    config: SampleConfig, sampler: Sampler, decoder: Any, first: int, last: int, target: str, ctx: Context
) -> int:
    """Draw samples [first, last) into one file; returns how many had to be drawn."""
    from vim_core.data.tables import write_images

    if io.exists(target):
        return 0
    rows: list[ImageRow] = []
    for group in range(first // config.lanes, -(-last // config.lanes)):
        offset = group * config.lanes
        kept = range(max(first, offset), min(last, offset + config.lanes))
        labels = lane_labels(sampler, group)
        codes = sampler.group(group, labels)
        lanes = [index - offset for index in kept]
        # The whole group is decoded: a picture's last bits may depend on its place in the batch.
        rows += _rows(decoder.decode(codes)[lanes], labels[lanes], kept, sampler.prior.shape.classes)
        ctx.progress.advance(kept.stop)
    write_images(target, rows)
    return last - first


def _rows(images: Tensor, labels: Tensor, indices: range, classes: int) -> list[ImageRow]:
    from vim_core.data.images import encode_png, from_tensor
    from vim_core.data.tables import ImageRow

    pixels = from_tensor(images)
    return [
        ImageRow(
            key=f"sample-{index:08d}",
            label=int(label) if classes else -1,
            image=encode_png(picture),
            height=picture.shape[0],
            width=picture.shape[1],
            source="prior",
        )
        for index, label, picture in zip(indices, labels, pixels, strict=True)
    ]


def _properties(config: SampleConfig, prior: Artifact, tokenizer: Artifact) -> dict[str, Any]:
    protocol = {
        "count": config.count,
        "labels": "balanced" if prior.properties["conditional"] else "none",
        "seed": config.seed,
        "temperature": config.temperature,
        "top_k": config.top_k,
        "top_p": config.top_p,
        "guidance": config.guidance,
    }
    return {
        "classes": prior.properties["classes"],
        **lineage.of_tokenizer(tokenizer),
        "prior": prior.digest,
        "splits": {"samples": config.count},
        "protocol": protocol,
    }
