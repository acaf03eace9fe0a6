"""Code tables: the plan by which `tokenize` makes one, a shard for each file of images, and its files afterwards."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from components.contract import lineage
from components.contract.api import Artifact, Inputs
from components.contract.commands import command
from vim_core.config import AugmentConfig, TokenizeConfig
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.data.code_files import CodeFile, CodeMeta

SPLITS = ("train", "test")


@dataclass(frozen=True)
class TokenizePlan:
    """Values that all shards of a run share: the tokenizer's files, its device, and the views of each split."""

    weights: str
    config: str
    device: str
    threads: int
    image_size: int
    encode_batch: int
    metas: dict[str, CodeMeta]
    seed: int
    augment: AugmentConfig
    max_pixels: int


@dataclass(frozen=True)
class TokenizeShard:
    """One file of images (`images`, a URI) and the file of codes made from it (`result`, a URI in the work folder)."""

    name: str
    split: str
    images: str
    result: str


def make_plan(config: TokenizeConfig, inputs: Inputs, device: str, threads: int) -> TokenizePlan:
    """The settings of all shards, with the tokenizer's lineage."""
    from vim_core.data.code_files import CodeMeta

    images, tokenizer = inputs["images"], inputs["tokenizer"]
    height, width = tokenizer.properties["grid"]
    metas = {}
    for split in SPLITS:
        views = config.views if split == "train" else 1
        metas[split] = CodeMeta(
            split=split,
            grid=(int(height), int(width)),
            vocabulary=int(tokenizer.properties["vocabulary"]),
            tokenizer=tokenizer.digest,
            views=views,
            augmentation=[{}] + [{**asdict(config.augment), "seed": config.seed} for _ in range(views - 1)],
        )
    return TokenizePlan(
        weights=tokenizer.uri("model.safetensors"),
        config=tokenizer.uri("config.json"),
        device=device,
        threads=threads,
        image_size=int(tokenizer.properties["image_size"]),
        encode_batch=int(tokenizer.properties["encode"]["batch"]),
        metas=metas,
        seed=config.seed,
        augment=config.augment,
        max_pixels=int(images.manifest.config["max_pixels"]),
    )


def make_shards(plan: TokenizePlan, inputs: Inputs, work: str) -> list[TokenizeShard]:
    """One shard per image file, in name order; each numeric class has its own folder below `work` (contract 11)."""
    from components.engines.devices import numeric_folder

    images = inputs["images"]
    folder = io.join(work, numeric_folder(plan.device, plan.threads, plan.encode_batch))
    shards = []
    for split in SPLITS:
        for file in sorted(e.name for e in images.manifest.files if e.name.startswith(f"images/{split}-")):
            name = file.replace("images/", "codes/", 1)
            shards.append(TokenizeShard(name, split, images.uri(file), io.join(folder, name)))
    return shards


def finished_files(shards: list[TokenizeShard]) -> set[str]:
    """URIs of the code files that exist: one listing of their folder for all shards."""
    if not shards:
        return set()
    present = set(io.list_names(shards[0].result.rpartition("/")[0]))
    return {shard.result for shard in shards if shard.result.rpartition("/")[2] in present}


def code_files(codes: Artifact, split: str) -> list[CodeFile]:
    """Files of one split with size, checksum, rows and tokenizer, which `CodeTable` checks."""
    from vim_core.data.code_files import CodeFile

    tokenizer = str(codes.properties["tokenizer"])
    entries = sorted((e for e in codes.manifest.files if e.name.startswith(f"codes/{split}-")), key=lambda e: e.name)
    return [CodeFile(io.join(codes.folder, e.path), e.bytes, e.sha256, e.rows, tokenizer) for e in entries]


def check_tokenizer(codes: Artifact, tokenizer: Artifact) -> None:
    """Raise `LineageError` unless the code table was made by this encoder and codebook."""
    remedy = f"; run `{command('run', 'tokenize')}` for this tokenizer"
    lineage.check_tokenizer("code table", codes, tokenizer, "was made by", remedy)
