"""What there is to tokenize: one plan for all shards, one shard per file of images."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from components.contract.api import Artifact, Context, Inputs
from vim_core.config import TokenizeConfig
from vim_core.storage import io

if TYPE_CHECKING:
    from components.tokenize.stages import Plan, Shard
    from vim_core.data.code_tables import CodeMeta

SPLITS = ("train", "test")


def make_plan(config: TokenizeConfig, inputs: Inputs, device: str, threads: int) -> Plan:
    """The settings of all shards, with the tokenizer's lineage."""
    from components.tokenize.stages import Plan

    images, tokenizer = inputs["images"], inputs["tokenizer"]
    return Plan(
        weights=tokenizer.uri("model.safetensors"),
        config=tokenizer.uri("config.json"),
        device=device,
        threads=threads,
        image_size=int(tokenizer.properties["image_size"]),
        encode_batch=int(tokenizer.properties["encode"]["batch"]),
        metas={split: _meta(config, tokenizer, split) for split in SPLITS},
        seed=config.seed,
        augment=config.augment,
        max_pixels=int(images.manifest.config["max_pixels"]),
    )


def make_shards(plan: Plan, inputs: Inputs, work: str) -> list[Shard]:
    """One per image file, in name order; unfinished work of another numeric class lies elsewhere (contract 11)."""
    from components.engines.beam.jobs import numeric_name
    from components.tokenize.stages import Shard

    images = inputs["images"]
    place = io.join(work, numeric_name(plan.device, plan.threads, plan.encode_batch))
    shards = []
    for split in SPLITS:
        for entry in sorted(e.name for e in images.manifest.files if e.name.startswith(f"images/{split}-")):
            name = entry.replace("images/", "codes/", 1)
            shards.append(Shard(name, split, images.uri(entry), io.join(place, name)))
    return shards


class Finished:
    """Which shards are finished, by listing their folder: one request, however many there are."""

    def __init__(self, shards: list[Shard]) -> None:
        self._names = {shard.result: shard.name.rpartition("/")[2] for shard in shards}
        self._folder = shards[0].result.rpartition("/")[0] if shards else ""

    def __call__(self) -> set[str]:
        """Addresses of the finished files."""
        present = set(io.listing(self._folder)) if self._folder else set()
        return {result for result, name in self._names.items() if name in present}


def unfinished(shards: list[Shard], ctx: Context) -> list[Shard]:
    """Those that no earlier attempt finished; starts the bar at the others."""
    from components.engines.beam.jobs import announce

    done = Finished(shards)()
    return announce(shards, lambda shard: shard.result in done, ctx.progress)


def _meta(config: TokenizeConfig, tokenizer: Artifact, split: str) -> CodeMeta:
    from vim_core.data.code_tables import CodeMeta

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
