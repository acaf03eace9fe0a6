"""Run `tokenize` or `statistics` over an image table in a process of its own; print what it made and its peak memory.

The networks are tiny: what is looked at is what grows with the number of images. See test_ingest_large.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.contract.api import Artifact, FileEntry
from components.statistics import component as statistics
from components.tokenize import component as tokenize
from tests.support import synthetic
from tests.support.synthetic import context_of
from vim_core.config import CodebookConfig, LossConfig, QuantizeConfig, StackConfig, StatisticsConfig, TokenizeConfig

STACK = StackConfig(blocks=1, heads=2, dim=16, mlp=32)
SIDE, PATCH, BATCH = 16, 8, 64


def table(folder: Path) -> Artifact:
    """The image files that `ingest` left in a folder, as an artifact."""
    entries = []
    for path in sorted(folder.glob("images/*.parquet")):
        data = path.read_bytes()
        entries.append(
            FileEntry(f"images/{path.name}", f"images/{path.name}", len(data), hashlib.sha256(data).hexdigest())
        )
    known: dict[str, Any] = {"config": {"max_pixels": 1_000_000}, "properties": {"classes": list(synthetic.CLASSES)}}
    made = synthetic.artifact(folder.parent / "unused", "ingest", {}, **known)
    return Artifact(str(folder), replace(made.manifest, files=entries))


def tokenizer(root: Path) -> Artifact:
    """An untrained tokenizer of four codes an image."""
    import torch

    from vim_core.models.vit_vqgan import ViTVQGAN, model_config
    from vim_core.storage import io
    from vim_core.weights.saving import to_bytes

    config = QuantizeConfig(
        image_size=SIDE, patch=PATCH, encoder=STACK, decoder=STACK, codebook=CodebookConfig(codes=64, dim=8),
        loss=LossConfig(perceptual=0.0), encode_batch=BATCH,
    )  # fmt: skip
    torch.manual_seed(0)
    files: dict[str, Any] = {
        "model.safetensors": lambda uri: io.write_bytes(uri, to_bytes(ViTVQGAN(config))),
        "config.json": lambda uri: io.write_bytes(uri, model_config(config)),
    }
    grid = [SIDE // PATCH] * 2
    known = {"image_size": SIDE, "encode": {"batch": BATCH}, "grid": grid, "vocabulary": 64}
    return synthetic.artifact(root, "quantize", files, properties=known)


def main(stage: str, images: str, root: str) -> None:
    """One JSON line to standard output."""
    ctx, given = context_of(Path(root), stage), {"images": table(Path(images))}
    if stage == "tokenize":
        given["tokenizer"] = tokenizer(Path(root))
        made = tokenize.run(TokenizeConfig(), given, ctx).metrics["images"]
    else:
        given["classifier"] = synthetic.classifier(Path(root), given["images"])
        config = StatisticsConfig(split="train", halves=["train"], score_splits=10)
        made = statistics.run(config, given, ctx).metrics["count"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout.write(json.dumps({"images": made, "peak_kb": peak}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
