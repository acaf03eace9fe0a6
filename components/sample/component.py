"""Draw images from the prior: codes by lanes, decoded by the tokenizer, written as an image table (Ray)."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from components.contract import lineage
from components.contract.api import Artifact, Context, Inputs, Outcome
from components.sample import shards
from vim_core.config import SampleConfig
from vim_core.errors import ConfigError, LineageError
from vim_core.storage import io

if TYPE_CHECKING:
    from components.sample.conditions import Asked
    from components.sample.draw import Group, Plan
    from vim_core.data.image_tables import ImageRow, ImageTable

VERSION = 2
INPUTS = {"prior": "prior", "tokenizer": "quantize", "codes": "tokenize?"}

PICTURE = "pictures/samples.png"
COLUMNS, MOST_ROWS = 8, 20
"""The picture shows this many samples a class, of this many classes at most."""


def run(config: SampleConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """An image table `images/samples-*.parquet`; shards finished before an interruption are kept.

    Groups of lanes are drawn in this process, or by a pool of Ray actors where `run.workers` or `run.ray_address`
    asks for one; the bytes are the same.

    Raises:
        LineageError: the prior or the held-out codes belong to another encoder or codebook.
        ConfigError: guidance, classes or completions are asked for that this prior cannot give.
        VimError: drawing failed, or an actor was lost too often.
    """
    from components.engines.shards import publish
    from components.sample.conditions import asked
    from vim_core.data.image_tables import ImageTable, image_digest

    check(config, inputs["prior"], inputs["tokenizer"])
    wanted = asked(config, inputs, ctx)
    plan = _plan(config, inputs, ctx)
    work = io.join(ctx.work, _numeric_name(plan))
    rate = _draw(plan, wanted, work, ctx)
    names = [shards.name(config, shard) for shard in range(config.shards)]
    for name in names:
        publish(ctx, io.join(work, name), name)
    table = ImageTable([ctx.path(name) for name in names])
    picture = _picture(table)
    io.write_bytes(ctx.path(PICTURE), picture)
    ctx.tracker.image("samples", picture)
    return Outcome(
        metrics={"count": float(len(table)), "images_per_s": rate},
        properties=_properties(config, inputs, wanted),
        numeric={"device": plan.device, "dtype": config.precision, "threads": plan.threads},
        rows={name: last - first for name, (first, last) in zip(names, shards.ranges(config), strict=True)},
        extras=frozenset({PICTURE}),
        digest=image_digest({"samples": table}),
    )


def _plan(config: SampleConfig, inputs: Inputs, ctx: Context) -> Plan:
    from components.engines.devices import ray_device, ray_threads
    from components.sample.draw import Plan

    files = [(inputs[n].uri("model.safetensors"), inputs[n].uri("config.json")) for n in ("prior", "tokenizer")]
    return Plan(files[0], files[1], config, ray_device(ctx.run), ray_threads(ctx.run))


def _numeric_name(plan: Plan) -> str:
    """A folder name for unfinished work: shards of another numeric class are not continued (contract 11)."""
    return f"{platform.machine()}-{plan.device}-{plan.config.precision}-t{plan.threads}"


def _draw(plan: Plan, wanted: Asked, work: str, ctx: Context) -> float:
    """Make the missing shards, each as soon as its groups are there; gives images per second."""
    from vim_core.data.image_tables import write_images

    config, started, drawn = plan.config, time.perf_counter(), 0
    missing = _missing(config, work, ctx)
    before = config.count - sum(last - first for first, last in (shards.ranges(config)[shard] for shard in missing))
    ctx.progress.advance(before)
    assembly = shards.Assembly(config, missing)
    for shard, rows in assembly.whole():  # those of no image
        write_images(io.join(work, shards.name(config, shard)), rows)
    for group, images in _drawn(plan, wanted, assembly.groups, ctx):
        drawn += len(images)
        for shard, rows in assembly.add(group.index, images):
            write_images(io.join(work, shards.name(config, shard)), rows)
        # At most: a group on the edge of a finished shard is drawn again.
        done = min(config.count, before + drawn)
        ctx.progress.advance(done, images_per_s=drawn / (time.perf_counter() - started))
    return drawn / (time.perf_counter() - started)


def _missing(config: SampleConfig, work: str, ctx: Context) -> list[int]:
    """Shards that no earlier attempt finished; starts the bar."""
    missing = [shard for shard in range(config.shards) if not io.exists(io.join(work, shards.name(config, shard)))]
    ctx.progress.start(config.count, "image")
    finished = config.shards - len(missing)
    if finished:
        ctx.progress.note(f"{finished} of {config.shards} shards were finished by an earlier attempt")
    return missing


def _drawn(plan: Plan, wanted: Asked, groups: Sequence[int], ctx: Context) -> Iterator[tuple[Group, list[ImageRow]]]:
    """Every group with its images, as they are finished."""
    from components.sample.draw import Drawer

    if not groups:
        return
    lanes, count = plan.config.lanes, plan.config.count
    jobs = (wanted.group(group, lanes, min(lanes, count - group * lanes)) for group in groups)
    if ctx.run.workers == 1 and not ctx.run.ray_address:
        drawer = Drawer(plan)
        for job in jobs:
            yield job, drawer.draw(job)
        return
    from components.engines.ray import pool
    from components.engines.ray.session import connect

    connect(ctx.run)
    yield from pool.map_actors(Drawer, plan, "draw", jobs, ctx, pool.actor_resources(plan.device, plan.threads))


def _picture(table: ImageTable) -> bytes:
    """The first samples of each class, one row a class; a single row without classes."""
    import numpy as np

    from vim_core.data.image_grid import grid_png
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


def _properties(config: SampleConfig, inputs: Inputs, wanted: Asked) -> dict[str, Any]:
    prior, known = inputs["prior"], inputs["prior"].properties["classes"]
    protocol = {
        "count": config.count,
        "labels": "balanced" if prior.properties["conditional"] else "none",
        "seed": config.seed,
        "temperature": config.temperature,
        "top_k": config.top_k,
        "top_p": config.top_p,
        "guidance": config.guidance,
    }
    if config.guidance_schedule != "constant":
        protocol |= {"guidance_schedule": config.guidance_schedule, "guidance_power": config.guidance_power}
    if config.classes:
        protocol["labels"] = "balanced over " + ", ".join(str(known[number]) for number in wanted.classes)
    if wanted.given is not None:
        protocol |= {
            "labels": "of the held-out images" if prior.properties["conditional"] else "none",
            "completes": f"the first {wanted.given.count} codes of {len(wanted.given.rows)} held-out images are given",
            "codes": inputs["codes"].digest,
        }
    return {
        "classes": known,
        **lineage.of_tokenizer(inputs["tokenizer"]),
        "prior": prior.digest,
        "splits": {"samples": config.count},
        "protocol": protocol,
    }
