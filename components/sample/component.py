"""Draw images from the prior: codes by lanes, decoded by the tokenizer, written as an image table (Ray)."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from components.contract import lineage
from components.contract.api import Artifact, Context, Inputs, Outcome
from components.engines.devices import ray_device, ray_threads
from components.sample import draw
from components.sample.draw import Conditions, DrawPlan, GroupAssembly, LaneGroup, sample_ranges, shard_name
from vim_core.config import SampleConfig
from vim_core.errors import ConfigError
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.data.image_tables import ImageRow

VERSION = 2
INPUTS = {"prior": "prior", "tokenizer": "quantize", "codes": "tokenize?"}

PICTURE = "pictures/samples.png"
COLUMNS, MAX_ROWS = 8, 20
"""Samples of each class in the picture, and classes in it at most."""


def run(config: SampleConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """An image table `images/samples-*.parquet`; shards finished before an interruption are kept.

    Groups of lanes are drawn in this process, or by a pool of Ray actors with `run.workers` > 1 or a
    `run.ray_address`; the bytes are the same.

    Raises:
        LineageError: the prior or the held-out codes belong to another encoder or codebook.
        ConfigError: this prior cannot give the guidance, classes or completions of the settings.
        VimError: drawing failed, or an actor was lost too often.
    """
    import numpy as np

    from components.engines.attempts import publish
    from vim_core.data.image_tables import ImageTable, image_digest
    from vim_core.data.images import UNLIMITED, decode, grid_png, to_tensor

    check(config, inputs["prior"], inputs["tokenizer"])
    conditions = draw.make_conditions(config, inputs, ctx)
    plan = draw.draw_plan(config, inputs, ray_device(ctx.run), ray_threads(ctx.run))
    # Shards of another numeric class are not continued (contract 11).
    threads = f"-t{plan.threads}" if plan.device == "cpu" else ""
    work = io.join(ctx.work, f"{platform.machine()}-{plan.device}-{config.precision}{threads}")
    rate = _draw_shards(plan, conditions, work, ctx)
    names = [shard_name(config, shard) for shard in range(config.shards)]
    for name in names:
        publish(ctx, io.join(work, name), name)
    table = ImageTable([ctx.path(name) for name in names])
    # The first samples of each class, one row a class; a single row without classes.
    classes = [np.flatnonzero(table.labels == label)[:COLUMNS] for label in np.unique(table.labels)[:MAX_ROWS]]
    columns = min(map(len, classes))
    shown = [decode(table.image(int(row)), UNLIMITED) for rows in classes for row in rows[:columns]]
    picture = grid_png(to_tensor(np.stack(shown)), columns)
    io.write_bytes(ctx.path(PICTURE), picture)
    ctx.tracker.image("samples", picture)
    return Outcome(
        metrics={"count": float(len(table)), "images_per_s": rate},
        properties=_properties(config, inputs, conditions),
        numeric={"device": plan.device, "dtype": config.precision, "threads": plan.threads},
        rows={name: last - first for name, (first, last) in zip(names, sample_ranges(config), strict=True)},
        extras=frozenset({PICTURE}),
        digest=image_digest({"samples": table}),
    )


def check(config: SampleConfig, prior: Artifact, tokenizer: Artifact) -> None:
    """Refuse a prior that does not fit the tokenizer or the guidance; see `run`."""
    lineage.check_tokenizer("prior", prior, tokenizer, "belongs to")
    if config.guidance != 1.0 and not (prior.properties["null_trained"] and prior.properties["conditional"]):
        raise ConfigError(
            f"sample.guidance={config.guidance}: needs a class-conditional prior trained with "
            "prior.label_dropout > 0; set sample.guidance=1"
        )


def _draw_shards(plan: DrawPlan, conditions: Conditions, work: str, ctx: Context) -> float:
    """Make the missing shards, each as soon as its groups are drawn; returns images per second."""
    from vim_core.data.image_tables import write_images

    config, started, drawn = plan.config, time.perf_counter(), 0
    missing = [shard for shard in range(config.shards) if not io.exists(io.join(work, shard_name(config, shard)))]
    ctx.progress.start(config.count, "image")
    if len(missing) < config.shards:
        finished = config.shards - len(missing)
        ctx.progress.note(f"{finished} of {config.shards} shards were finished by an earlier attempt")
    ranges = sample_ranges(config)
    before = config.count - sum(last - first for first, last in (ranges[shard] for shard in missing))
    ctx.progress.advance(before)
    assembly = GroupAssembly(config, missing)
    for shard, rows in assembly.pop_complete():  # shards without an image
        write_images(io.join(work, shard_name(config, shard)), rows)
    for group, images in _draw_groups(plan, conditions, assembly.groups, ctx):
        drawn += len(images)
        for shard, rows in assembly.add(group.index, images):
            write_images(io.join(work, shard_name(config, shard)), rows)
        # An upper bound: a group on the edge of a finished shard is drawn again.
        done = min(config.count, before + drawn)
        ctx.progress.advance(done, images_per_s=drawn / (time.perf_counter() - started))
    return drawn / (time.perf_counter() - started)


def _draw_groups(
    plan: DrawPlan, conditions: Conditions, groups: Sequence[int], ctx: Context
) -> Iterator[tuple[LaneGroup, list[ImageRow]]]:
    """Every group with its images, as they are finished."""
    if not groups:
        return
    lanes, count = plan.config.lanes, plan.config.count
    jobs = (conditions.group(group, lanes, min(lanes, count - group * lanes)) for group in groups)
    if ctx.run.workers == 1 and not ctx.run.ray_address:
        drawer = draw.GroupDrawer(plan)
        for job in jobs:
            yield job, drawer.draw(job)
        return
    from components.engines.ray.pool import actor_resources, map_actors
    from components.engines.ray.session import connect

    connect(ctx.run)
    yield from map_actors(draw.GroupDrawer, plan, "draw", jobs, ctx, actor_resources(plan.device, plan.threads))


def _properties(config: SampleConfig, inputs: Inputs, conditions: Conditions) -> dict[str, Any]:
    prior, classes = inputs["prior"], inputs["prior"].properties["classes"]
    protocol = {
        "count": config.count,
        "labels": "balanced" if prior.properties["conditional"] else "none",
        **{name: getattr(config, name) for name in ("seed", "temperature", "top_k", "top_p", "guidance")},
    }
    if config.guidance_schedule != "constant":
        protocol |= {"guidance_schedule": config.guidance_schedule, "guidance_power": config.guidance_power}
    if config.classes:
        protocol["labels"] = "balanced over " + ", ".join(str(classes[number]) for number in conditions.classes)
    prefixes = conditions.prefixes
    if prefixes is not None:
        protocol |= {
            "labels": "of the held-out images" if prior.properties["conditional"] else "none",
            "completes": f"the first {prefixes.codes} codes of {len(prefixes.rows)} held-out images are given",
            "codes": inputs["codes"].digest,
        }
    return {
        "classes": classes,
        **lineage.tokenizer_digests(inputs["tokenizer"]),
        "prior": prior.digest,
        "splits": {"samples": config.count},
        "protocol": protocol,
    }
