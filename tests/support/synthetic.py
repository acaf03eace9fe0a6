"""A small set of artifacts that belong together, written without running the components that would make them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from components.contract.api import Artifact, Context, FileEntry, Manifest
from tests.support.common import SilentProgress, SilentTracker
from vim_core.config import PipelineConfig, RunConfig
from vim_core.data.code_files import CodeMeta, write_codes
from vim_core.data.image_tables import ImageRow, write_images
from vim_core.data.images import encode_png
from vim_core.metrics.frechet import Moments
from vim_core.storage import io

SIZE, CLASSES, VOCABULARY = 16, ("ant", "bee", "<cat>"), 8
FEATURES = 4


def artifact(
    root: Path,
    component: str,
    files: Mapping[str, Callable[[str], Any]],
    inputs: Mapping[str, Artifact] | None = None,
    **fields: Any,
) -> Artifact:
    """An artifact whose files the given functions write; further fields go to its manifest."""
    folder = root / component / "data"
    entries = []
    for name, write in files.items():
        uri = str(folder / name)
        Path(uri).parent.mkdir(parents=True, exist_ok=True)
        write(uri)
        data = Path(uri).read_bytes()
        entries.append(FileEntry(name, name, len(data), hashlib.sha256(data).hexdigest()))
    records = {name: a.record for name, a in (inputs or {}).items()}
    manifest = Manifest(
        component=component,
        version=1,
        fingerprint=f"{component:0<20}",
        digest=f"digest-of-{component:-<54}",
        config={},
        inputs=records,
        files=entries,
        metrics={},
        properties={},
        protocols={},
        numeric={},
        seconds=2.5,
        attempt="test",
        created="2026-01-02T03:04:05Z",
    )
    return Artifact(str(folder), replace(manifest, **fields))


def context_of(root: Path, name: str, preset: str = "test") -> Context:
    """A context with folders of its own, silent progress and one thread on the CPU."""
    run = RunConfig(root=str(root), threads=1, device="cpu")
    pipeline = PipelineConfig(preset=preset, run=run)
    work, out = str(root / "work" / name), str(root / "out" / name)
    return Context(name, "0" * 20, work, out, run, pipeline, SilentProgress(), SilentTracker())


def with_fields(original: Artifact, **fields: Any) -> Artifact:
    """The same artifact with other fields in its manifest."""
    return Artifact(original.folder, replace(original.manifest, **fields))


def pictures(count: int, seed: int) -> np.ndarray:
    """Smooth random images uint8 [count, SIZE, SIZE, 3]."""
    coarse = np.random.default_rng(seed).integers(40, 216, size=(count, 4, 4, 3))
    return coarse.repeat(SIZE // 4, axis=1).repeat(SIZE // 4, axis=2).astype(np.uint8)


def rows(keys: Sequence[str], labels: Sequence[int], images: np.ndarray) -> list[ImageRow]:
    """Image rows of these keys, labels and pixels."""
    pairs = zip(keys, labels, images, strict=True)
    return [ImageRow(key, label, encode_png(p), p.shape[0], p.shape[1], "test") for key, label, p in pairs]


def image_files(prefix: str, table: Sequence[ImageRow], shards: int) -> dict[str, Callable[[str], Any]]:
    """Writers of an image table's shards: row i goes to shard i mod shards."""
    return {
        f"images/{prefix}-{s:05d}-of-{shards:05d}.parquet": lambda uri, s=s: write_images(uri, table[s::shards])  # type: ignore[misc]
        for s in range(shards)
    }


def tables(root: Path, count: int = 12) -> dict[str, Artifact]:
    """ingest, quantize, tokenize and reconstruct over `count` test images in two shards."""
    keys, labels = [f"image-{i:03d}" for i in range(count)], [i % len(CLASSES) for i in range(count)]
    originals = pictures(count, 0)
    noise = np.random.default_rng(1).integers(-20, 21, size=originals.shape)
    noisy = np.clip(originals.astype(int) + noise, 0, 255).astype(np.uint8)
    ingest = artifact(
        root,
        "ingest",
        image_files("test", rows(keys, labels, originals), 2),
        config={"max_pixels": 1_000_000},
        properties={"classes": list(CLASSES), "splits": {"train": 5, "test": count}, "image_size": [SIZE, SIZE]},
    )
    quantize = artifact(root, "quantize", {}, {"images": ingest})
    meta = CodeMeta("test", (2, 2), VOCABULARY, quantize.digest)
    codes = np.random.default_rng(2).integers(0, VOCABULARY, size=(count, 4))
    zeros = np.zeros(count, dtype=np.int32)
    tokenize = artifact(
        root,
        "tokenize",
        {"codes/test-00000-of-00001.parquet": lambda uri: write_codes(uri, keys, np.array(labels), zeros, codes, meta)},
        {"images": ingest, "tokenizer": quantize},
        properties={"tokenizer": quantize.digest, "grid": [2, 2], "vocabulary": VOCABULARY, "classes": list(CLASSES)},
    )
    reconstruct = artifact(
        root,
        "reconstruct",
        image_files("test", rows(keys, labels, noisy), 2),
        {"images": ingest, "tokenizer": quantize},
        config={"limit": 0},
        properties={"tokenizer": quantize.digest, "images": ingest.digest},
    )
    return {"ingest": ingest, "quantize": quantize, "tokenize": tokenize, "reconstruct": reconstruct}


def classifier(root: Path, ingest: Artifact) -> Artifact:
    """An untrained classifier of the test images."""
    import torch
    from safetensors.torch import save_file

    from vim_core.models.classifier import Classifier, ClassifierShape, model_config

    shape = ClassifierShape(image_size=SIZE, classes=len(CLASSES), width=4, features=FEATURES)
    torch.manual_seed(0)
    network = Classifier(shape)
    files: dict[str, Callable[[str], Any]] = {
        "model.safetensors": lambda uri: save_file(network.state_dict(), uri),
        "config.json": lambda uri: io.write_bytes(uri, model_config(shape)),
        "curves.jsonl": lambda uri: Path(uri).write_text(curves({"loss": [2.0, 1.0, 0.5]})),
    }
    return artifact(root, "classify", files, {"images": ingest}, metrics={"test_accuracy": 0.9})


def generated(root: Path, quantize: Artifact, count: int = 9, labelled: bool = True) -> dict[str, Artifact]:
    """A prior and its samples in two shards."""
    prior = artifact(root, "prior", {}, metrics={"nll_bits_per_token": 2.0, "unigram_bits_per_token": 3.0})
    labels = [i % len(CLASSES) if labelled else -1 for i in range(count)]
    keys = [f"sample-{i:03d}" for i in range(count)]
    sample = artifact(
        root,
        "sample",
        image_files("samples", rows(keys, labels, pictures(count, 3)), 2),
        {"prior": prior, "tokenizer": quantize},
        metrics={"count": float(count)},
        properties={
            "classes": list(CLASSES),
            "tokenizer": quantize.digest,
            "protocol": {"count": count, "seed": 0, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "guidance": 2.0},
        },
    )
    return {"prior": prior, "sample": sample}


def statistics(root: Path, ingest: Artifact, network: Artifact) -> Artifact:
    """Moments of made-up features of the test split."""
    halves = [Moments.from_batch(np.random.default_rng(seed).normal(size=(20, FEATURES))) for seed in (4, 5)]
    parts = {"test": halves[0].merge(halves[1]), "half-0": halves[0], "half-1": halves[1]}
    files: dict[str, Callable[[str], Any]] = {
        f"moments/{name}.npz": lambda uri, part=part: io.write_bytes(uri, part.to_bytes())  # type: ignore[misc]
        for name, part in parts.items()
    }
    return artifact(
        root,
        "statistics",
        files,
        {"images": ingest, "classifier": network},
        properties={
            "network": {"kind": "classifier", "digest": network.digest},
            "split": "test",
            "halves": ["test"],
            "count": 40,
            "dim": FEATURES,
        },
    )


def everything(root: Path) -> dict[str, Artifact]:
    """All of the above by component."""
    artifacts = tables(root)
    artifacts["classify"] = classifier(root, artifacts["ingest"])
    artifacts["statistics"] = statistics(root, artifacts["ingest"], artifacts["classify"])
    return artifacts | generated(root, artifacts["quantize"])


def inputs_of(wanted: Mapping[str, str], artifacts: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """The inputs of a component with these `INPUTS`, from artifacts by component."""
    sources = {name: source.removesuffix("?") for name, source in wanted.items()}
    return {name: artifacts[source] for name, source in sources.items() if source in artifacts}


def curves(series: Mapping[str, Sequence[float]]) -> str:
    """A `curves.jsonl` with one line per position of the series."""
    length = max(len(values) for values in series.values())
    lines = [
        {"step": 10 * i, "t": i, "m": {name: values[i] for name, values in series.items() if i < len(values)}}
        for i in range(length)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)
