"""Image table to code table: every image and its augmented views through the tokenizer's one encode (Beam or Ray)."""

from __future__ import annotations

from typing import Any

from components.contract import lineage
from components.contract.api import Context, Inputs, Outcome
from components.tokenize.plan import SPLITS, TokenizePlan, TokenizeShard, finished_files, make_plan, make_shards
from vim_core.config import RunConfig, TokenizeConfig

VERSION = 2
INPUTS = {"images": "ingest", "tokenizer": "quantize"}
CODES_OF = ("tokenizer",)
"""Inputs of which only the codes count: the decoder of the tokenizer does not change the output."""


def run(config: TokenizeConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Files `codes/<split>-NNNNN-of-NNNNN.parquet`: all views of the training images, the plain view of the others.

    Finished shards of an earlier attempt on the same kind of device are kept.

    Raises:
        DataError: an image of the table cannot be decoded, or a file is missing.
    """
    from components.engines import devices
    from components.engines.attempts import publish, start_progress

    by_beam = config.engine == "beam"
    device = devices.beam_device(ctx.run) if by_beam else devices.ray_device(ctx.run)
    threads = devices.beam_threads(ctx.run) if by_beam else devices.ray_threads(ctx.run)
    plan = make_plan(config, inputs, device, threads)
    shards = make_shards(plan, inputs, ctx.work)
    done = finished_files(shards)
    left = start_progress(shards, lambda shard: shard.result in done, ctx.progress)
    if left and by_beam:
        from components.engines.beam import run_pipeline
        from components.tokenize.beam_engine import build

        run_pipeline(
            ctx.run, lambda pipeline: build(pipeline, plan, left), ctx.progress, lambda: len(finished_files(shards))
        )
    elif left:
        from components.tokenize.stages import run_actors

        run_actors(plan, left, ctx, len(shards) - len(left))
    for shard in shards:
        publish(ctx, shard.result, shard.name)
    return make_outcome(config, inputs, plan, shards)


def make_outcome(config: TokenizeConfig, inputs: Inputs, plan: TokenizePlan, shards: list[TokenizeShard]) -> Outcome:
    """Metrics, lineage and rows of the finished shards."""
    from vim_core.data.image_tables import open_parquet

    images, tokenizer = inputs["images"], inputs["tokenizer"]
    rows = {shard.name: int(open_parquet(shard.result).metadata.num_rows) for shard in shards}
    train = plan.metas["train"]
    properties: dict[str, Any] = {
        **lineage.tokenizer_digests(tokenizer),
        "images": images.digest,
        "grid": list(train.grid),
        "vocabulary": train.vocabulary,
        "views": config.views,
        "classes": images.properties["classes"],
        "splits": {split: sum(rows[shard.name] for shard in shards if shard.split == split) for split in SPLITS},
        "augmentation": train.augmentation,
    }
    numeric = {
        "device": plan.device,
        "dtype": "fp32",
        "encode_batch": tokenizer.properties["encode"]["batch"],
        "threads": plan.threads,
    }
    metrics = {
        "tokens": float(sum(rows.values()) * train.tokens),
        "images": float(sum(rows[shard.name] // plan.metas[shard.split].views for shard in shards)),
    }
    return Outcome(metrics=metrics, properties=properties, numeric=numeric, rows=rows)


def start(config: TokenizeConfig, inputs: Inputs, run: RunConfig, work: str) -> Any:
    """Start the Beam pipeline for the unfinished shards in `work`; returns Beam's result, None where all are finished.

    A later `run` with the same settings finds the shards and makes the artifact of them.
    """
    from components.engines.devices import beam_device, beam_threads

    plan = make_plan(config, inputs, beam_device(run), beam_threads(run))
    shards = make_shards(plan, inputs, work)
    done = finished_files(shards)
    left = [shard for shard in shards if shard.result not in done]
    if not left:
        return None
    from components.engines.beam import make_pipeline
    from components.tokenize.beam_engine import build

    return make_pipeline(run, lambda pipeline: build(pipeline, plan, left)).run()
