"""Image table to code table: every image and its augmented views through the tokenizer's one encode (Beam or Ray)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from components.contract import lineage
from components.contract.api import Context, Inputs, Outcome
from components.tokenize.jobs import SPLITS, Finished, make_plan, make_shards, unfinished
from vim_core.config import RunConfig, TokenizeConfig

if TYPE_CHECKING:
    from components.tokenize.stages import Plan, Shard

VERSION = 1
INPUTS = {"images": "ingest", "tokenizer": "quantize"}
CODES_OF = ("tokenizer",)
"""Its decoder plays no part in what comes out."""


def run(config: TokenizeConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Files `codes/<split>-NNNNN-of-NNNNN.parquet`: all views of the training images, the plain view of the others.

    Finished shards of an earlier attempt on the same kind of device are kept.

    Raises:
        DataError: an image of the table cannot be decoded, or a file is missing.
    """
    from components.engines.beam.jobs import publish

    by_beam = config.engine == "beam"
    plan, shards = _by_beam(config, inputs, ctx) if by_beam else _by_ray(config, inputs, ctx)
    for shard in shards:
        publish(ctx, shard.result, shard.name)
    return _outcome(config, inputs, plan, shards)


def start(config: TokenizeConfig, inputs: Inputs, run: RunConfig, work: str) -> Any:
    """Start the pipeline for what is unfinished in `work` and return Beam's result, or None where nothing is.

    Whoever runs the component afterwards finds the shards finished and makes the artifact of them.
    """
    from components.engines.beam.jobs import device_of, start_pipeline, threads_of

    plan = make_plan(config, inputs, device_of(run), threads_of(run))
    shards = make_shards(plan, inputs, work)
    done = Finished(shards)()
    waiting = [shard for shard in shards if shard.result not in done]
    if not waiting:
        return None
    from components.tokenize.beam_stages import build

    return start_pipeline(run, lambda pipeline: build(pipeline, plan, waiting))


def _by_beam(config: TokenizeConfig, inputs: Inputs, ctx: Context) -> tuple[Plan, list[Shard]]:
    from components.engines.beam.jobs import device_of, run_pipeline, threads_of

    plan = make_plan(config, inputs, device_of(ctx.run), threads_of(ctx.run))
    shards = make_shards(plan, inputs, ctx.work)
    waiting = unfinished(shards, ctx)
    if waiting:
        from components.tokenize.beam_stages import build

        done = Finished(shards)
        run_pipeline(ctx.run, lambda pipeline: build(pipeline, plan, waiting), ctx.progress, lambda: len(done()))
    return plan, shards


def _by_ray(config: TokenizeConfig, inputs: Inputs, ctx: Context) -> tuple[Plan, list[Shard]]:
    from components.tokenize import ray_engine

    plan = make_plan(config, inputs, ray_engine.device_of(ctx.run), ray_engine.threads_of(ctx.run))
    shards = make_shards(plan, inputs, ctx.work)
    waiting = unfinished(shards, ctx)
    if waiting:
        ray_engine.run(plan, waiting, ctx, len(shards) - len(waiting))
    return plan, shards


def _outcome(config: TokenizeConfig, inputs: Inputs, plan: Plan, shards: list[Shard]) -> Outcome:
    from vim_core.data.image_tables import open_parquet

    images, tokenizer = inputs["images"], inputs["tokenizer"]
    rows = {shard.name: int(open_parquet(shard.result).metadata.num_rows) for shard in shards}
    train = plan.metas["train"]
    properties: dict[str, Any] = {
        **lineage.of_tokenizer(tokenizer),
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
