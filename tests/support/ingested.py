"""Artifacts as the real components make them, without the store: the files that `run` wrote become an artifact."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from components.artifacts.store import files_in
from components.contract.api import Artifact, Context, Outcome
from tests.support.synthetic import artifact, context_of, with_fields
from vim_core.config import CodebookConfig, IngestConfig, LossConfig, QuantizeConfig, StackConfig
from vim_core.data.image_tables import ImageTable


def kept(outcome: Outcome, ctx: Context, config: Any, digest: str = "d" * 64) -> Artifact:
    """The output folder of a component as an artifact."""
    empty = artifact(Path(ctx.out).parent, ctx.name, {})
    complete = with_fields(
        empty,
        files=files_in(ctx.out, ".", outcome.rows),
        config=asdict(config),
        digest=outcome.digest or digest,
        properties=outcome.properties,
        metrics=outcome.metrics,
    )
    return Artifact(ctx.out, complete.manifest)


def digits_table(root: Path, limit: int = 90, shards: int = 3) -> Artifact:
    """A few built-in digits through the real `ingest`."""
    from components.ingest import component as ingest

    config = IngestConfig(limit=limit, shards=shards, test_fraction=0.3)
    ctx = context_of(root, "ingest")
    return kept(ingest.run(config, {}, ctx), ctx, config)


def tiny_tokenizer(root: Path, encode_batch: int = 7) -> Artifact:
    """An untrained tokenizer of 16x16 images: 2x2 codes of 32."""
    import torch

    from tests.support.tiny_artifacts import files
    from vim_core.models.vit_vqgan import ViTVQGAN, model_config

    stack = StackConfig(blocks=1, heads=2, dim=16, mlp=32)
    config = QuantizeConfig(
        image_size=16,
        patch=8,
        encoder=stack,
        decoder=stack,
        codebook=CodebookConfig(codes=32, dim=4),
        loss=LossConfig(perceptual=0.0),
        encode_batch=encode_batch,
    )
    torch.manual_seed(0)
    return artifact(
        root,
        "quantize",
        files(ViTVQGAN(config), model_config(config)),
        properties={
            "image_size": 16,
            "grid": [2, 2],
            "vocabulary": 32,
            "encode": {"dtype": "fp32", "batch": encode_batch},
        },
        digest="0" * 64,
    )


def image_table_of(ctx: Context, split: str) -> ImageTable:
    """The image table of a split that `ingest` wrote."""
    return ImageTable([str(path) for path in sorted(Path(ctx.out, "images").glob(f"{split}-*"))])


def dead_letters(ctx: Context) -> dict[str, str]:
    """Reason by key of the images that `ingest` could not use."""
    table = pq.read_table(ctx.path("dead_letter.parquet"))
    return dict(zip(table["key"].to_pylist(), table["reason"].to_pylist(), strict=True))


def contents(ctx: Context) -> dict[str, bytes]:
    """All output files by logical name."""
    root = Path(ctx.out)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
