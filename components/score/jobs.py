"""How a run of `score` is cut into shards."""

from __future__ import annotations

from typing import Any

from components.contract.api import Artifact, Context, Inputs
from components.score import real_vs_real, samples, shards
from components.score.sets import SAMPLES, ImageSet
from components.statistics.shards import DEVICE
from vim_core.config import ScoreConfig
from vim_core.errors import DataError
from vim_core.storage import io


def jobs_of(config: ScoreConfig, inputs: Inputs, ctx: Context, sets: list[ImageSet]) -> list[shards.Job]:
    """Jobs of reconstructions, of every set of generated images, and of real images against real ones."""
    jobs: list[shards.Job] = [*pairs_of(config, inputs, ctx)]
    judged = [job for of in sets for job in judged_of(config, inputs, ctx, of)]
    jobs += judged
    tap = samples.tap_of(inputs, ctx)
    counted = [job.total for job in judged if job.set == SAMPLES]
    if config.floor and counted and tap is not None and "statistics" in inputs:
        cuts = real_vs_real.cuts_of(inputs, counted[0])
        shared = _shared(config, inputs["images"], ctx)
        if cuts is not None:
            place = _placed(config, ctx, "real", tap.device)
            jobs += real_vs_real.jobs_of(inputs, cuts, config.groups, place, shared, tap)
    return jobs


def pairs_of(config: ScoreConfig, inputs: Inputs, ctx: Context) -> list[shards.Pair]:
    """One job per shard of reconstructions. Raises `DataError` for shards without their originals."""
    from components.engines.devices import beam_device

    images, made = inputs["images"], inputs["reconstructions"]
    prefix = "images/test-"
    originals = {e.name for e in images.manifest.files if e.name.startswith(prefix)}
    names = sorted(e.name for e in made.manifest.files if e.name.startswith(prefix))
    whole = not made.manifest.config.get("limit", 0)
    unpaired = (set(names) ^ originals) if whole else (set(names) - originals)
    if unpaired or not names:
        first = min(unpaired, default=f"{prefix}*")
        raise DataError(f"score: {first} is not both an original and a reconstruction: run reconstruct again")
    tap = samples.tap_of(inputs, ctx) if config.reconstructed or config.neighbours else None
    return [
        shards.Pair(
            result=_result(config, ctx, "reconstructions", name),
            name=name,
            originals=images.uri(name),
            reconstructions=made.uri(name),
            whole=whole,
            tap=tap,
            keep=bool(config.groups or config.neighbours),
            lpips=config.lpips_weights if config.lpips else "",
            lpips_sha256=config.lpips_sha256,
            lpips_device=beam_device(ctx.run) if config.lpips else DEVICE,
            **_shared(config, images, ctx),
        )
        for name in names
    ]


def judged_of(config: ScoreConfig, inputs: Inputs, ctx: Context, of: ImageSet) -> list[shards.Judged]:
    """One job per shard of a set of generated images; none without a network to look at them."""
    from vim_core.data.image_tables import open_parquet
    from vim_core.metrics.conventions import convention

    tap = samples.tap_of(inputs, ctx)
    if tap is None:
        return []
    classifier = inputs.get("classifier")
    rows = [int(open_parquet(uri).metadata.num_rows) for uri in of.uris]
    asked = samples.asked(inputs, convention(config.protocol), sum(rows))
    return [
        shards.Judged(
            result=_result(config, ctx, of.name, f"{place:05d}", tap.device),
            name=uri,
            samples=uri,
            weights=classifier.uri("model.safetensors") if classifier else "",
            config=classifier.uri("config.json") if classifier else "",
            tap=tap,
            protocol=config.protocol,
            first=sum(rows[:place]),
            total=sum(rows),
            keep=bool(config.groups or config.neighbours),
            set=of.name,
            **asked,
            **_shared(config, inputs["images"], ctx),
        )
        for place, uri in enumerate(of.uris)
    ]


def searches_of(config: ScoreConfig, inputs: Inputs, ctx: Context, queries: str, count: int, size: int) -> list[Any]:
    """One job per shard of training images in which the nearest to the queries are sought."""
    tap = samples.tap_of(inputs, ctx)
    if tap is None:
        return []
    place = _placed(config, ctx, "neighbours", tap.device)
    shared = _shared(config, inputs["images"], ctx)
    return [
        shards.Search(place(f"{index:05d}"), uri, uri, queries, count, size, tap=tap, **shared)
        for index, uri in enumerate(inputs["images"].uris("images/train-"))
    ]


def _shared(config: ScoreConfig, images: Artifact, ctx: Context) -> dict[str, Any]:
    from components.engines.devices import beam_threads

    limit = int(images.manifest.config["max_pixels"])
    return {"batch": config.batch, "max_pixels": limit, "device": DEVICE, "threads": beam_threads(ctx.run)}


def _placed(config: ScoreConfig, ctx: Context, part: str, device: str) -> Any:
    return lambda name: _result(config, ctx, part, name, device)


def _result(config: ScoreConfig, ctx: Context, part: str, name: str, device: str = DEVICE) -> str:
    """Where a shard's result lies in the work folder; the numeric class is part of it (contract 11)."""
    from components.engines.devices import beam_threads, numeric_folder

    place = numeric_folder(device, beam_threads(ctx.run), config.batch)
    return io.join(ctx.work, place, part, name.rsplit("/", 1)[-1].removesuffix(".parquet"))
