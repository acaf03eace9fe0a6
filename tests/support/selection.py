"""Artifacts around rejection sampling: candidates, classifiers of the same images, their statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.contract.api import Artifact
from tests.support import tiny_artifacts
from tests.support.synthetic import artifact, image_files, rows
from tests.support.tiny import enlarge
from vim_core.metrics.frechet import Moments
from vim_core.models.classifier import Classifier, ClassifierShape, model_config
from vim_core.storage import io

SIZE, FEATURES = 8, 5


def classifier(root: Path, component: str, images: Artifact, seed: int) -> Artifact:
    """An untrained classifier of the images."""
    torch.manual_seed(seed)
    shape = ClassifierShape(SIZE, 3, 4, FEATURES)
    network = Classifier(shape)
    enlarge(network)
    files = tiny_artifacts.files(network, model_config(shape))
    return artifact(root, component, files, {"images": images}, properties={"classes": tiny_artifacts.CLASSES})


def samples(root: Path, count: int, shards: int = 3, **properties: Any) -> Artifact:
    """Random pictures of the classes in turn, contiguous shards as `sample` writes them."""
    pixels = np.random.default_rng(7).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    table = rows([f"sample-{i:08d}" for i in range(count)], [i % 3 for i in range(count)], pixels)
    bounds = [count * shard // shards for shard in range(shards + 1)]
    files: dict[str, Callable[[str], Any]] = {}
    for shard in range(shards):
        (write,) = image_files("samples", table[bounds[shard] : bounds[shard + 1]], 1).values()
        files[f"images/samples-{shard:05d}-of-{shards:05d}.parquet"] = write
    described = {
        "classes": tiny_artifacts.CLASSES,
        "tokenizer": "tokenizer-digest",
        "encoder": "encoder-digest",
        "prior": "prior-digest",
        "splits": {"samples": count},
        "protocol": {"count": count, "seed": 0, "guidance": 2.0},
    }
    return artifact(root, "sample", files, properties=described | properties)


def statistics(root: Path, images: Artifact, judge: Artifact) -> Artifact:
    """Moments of made-up features."""
    moments = Moments.from_batch(np.random.default_rng(4).normal(size=(40, FEATURES)))
    return artifact(
        root,
        "statistics",
        {"moments/test.npz": lambda uri: io.write_bytes(uri, moments.to_bytes())},
        {"images": images, "classifier": judge},
        properties={"network": {"kind": "classifier", "digest": judge.digest}, "split": "test", "count": 40},
    )


def images(root: Path) -> Artifact:
    """What `ingest` says of the images."""
    return artifact(root, "ingest", {}, config={"max_pixels": 10**6}, properties={"classes": tiny_artifacts.CLASSES})


def one_after_the_other(
    run: Any, jobs: Sequence[Any], perform: Callable[[Any], Any], finished: Callable[[Any], bool], *rest: Any
) -> None:
    """Stands for Beam."""
    for job in jobs:
        if not finished(job):
            perform(job)
