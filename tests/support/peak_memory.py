"""Run `ingest`, `tokenize` or `statistics` in a process of its own; print its results and its peak memory.

The networks are tiny: the tests look at what grows with the number of images. See test_ingest_large.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.contract.api import Artifact, FileEntry
from components.ingest import component as ingest
from components.statistics import component as statistics
from components.tokenize import component as tokenize
from tests.support import synthetic
from tests.support.ingested import tiny_tokenizer
from tests.support.synthetic import context_of
from vim_core.config import IngestConfig, StatisticsConfig, TokenizeConfig


def run_ingest(source: str, root: str, fraction: str) -> dict[str, Any]:
    """Ingest WebDataset shards."""
    config = IngestConfig(source=source, split="hash", test_fraction=float(fraction), shards=8)
    outcome = ingest.run(config, {}, context_of(Path(root), "ingest"))
    names = ("read", "written", "dead_letter", "key_rule", "classes")
    return {**{name: outcome.properties[name] for name in names}, "digest": outcome.digest}


def image_artifact(folder: Path) -> Artifact:
    """The image files that `ingest` left in a folder, as an artifact."""
    entries = []
    for path in sorted(folder.glob("images/*.parquet")):
        data, name = path.read_bytes(), f"images/{path.name}"
        entries.append(FileEntry(name, name, len(data), hashlib.sha256(data).hexdigest()))
    fields: dict[str, Any] = {"config": {"max_pixels": 1_000_000}, "properties": {"classes": list(synthetic.CLASSES)}}
    empty = synthetic.artifact(folder.parent / "unused", "ingest", {}, **fields)
    return Artifact(str(folder), replace(empty.manifest, files=entries))


def run_tokenize(images: str, root: str) -> dict[str, Any]:
    """Tokenize an image table, four codes an image."""
    inputs = {"images": image_artifact(Path(images)), "tokenizer": tiny_tokenizer(Path(root), encode_batch=64)}
    outcome = tokenize.run(TokenizeConfig(), inputs, context_of(Path(root), "tokenize"))
    return {"images": outcome.metrics["images"]}


def run_statistics(images: str, root: str) -> dict[str, Any]:
    """Measure the features of an image table."""
    table = image_artifact(Path(images))
    inputs = {"images": table, "classifier": synthetic.classifier(Path(root), table)}
    config = StatisticsConfig(split="train", halves=["train"], score_splits=10)
    return {"images": statistics.run(config, inputs, context_of(Path(root), "statistics")).metrics["count"]}


if __name__ == "__main__":
    runs: dict[str, Callable[..., dict[str, Any]]]
    runs = {"ingest": run_ingest, "tokenize": run_tokenize, "statistics": run_statistics}
    results = runs[sys.argv[1]](*sys.argv[2:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout.write(json.dumps({**results, "peak_kb": peak}) + "\n")
