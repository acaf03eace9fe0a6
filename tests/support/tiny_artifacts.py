"""Artifacts of tiny untrained models and code tables for the component tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.contract.api import Artifact
from tests.support.synthetic import artifact, image_files, rows
from tests.support.tiny import enlarge, pixels, quantize_config
from vim_core.config import StackConfig
from vim_core.data.code_files import CodeMeta, write_codes
from vim_core.models.prior import ImagePrior, PriorShape
from vim_core.models.prior import model_config as prior_settings
from vim_core.models.vit_vqgan import ViTVQGAN
from vim_core.models.vit_vqgan import model_config as tokenizer_settings
from vim_core.storage import io
from vim_core.weights.saving import to_bytes

CLASSES = ["ant", "bee", "cat"]


def files(module: torch.nn.Module, settings: bytes) -> dict[str, Any]:
    weights = to_bytes(module)
    return {
        "model.safetensors": lambda uri: io.write_bytes(uri, weights),
        "config.json": lambda uri: io.write_bytes(uri, settings),
    }


def images(root: Path) -> Artifact:
    """Thirteen training and five test images of 8x8 in two files each."""
    written: dict[str, Any] = {}
    splits = {"train": 13, "test": 5}
    for split, count in splits.items():
        keys = [f"{split}-{i:03d}" for i in range(count)]
        written |= image_files(split, rows(keys, [i % 3 for i in range(count)], pixels(count, 8)), 2)
    return artifact(root, "ingest", written, properties={"classes": CLASSES, "splits": splits})


def tokenizer(root: Path, **fields: Any) -> Artifact:
    """Images of 8x8 as 2x2 codes of 16."""
    torch.manual_seed(0)
    config = quantize_config(**fields)
    model = ViTVQGAN(config)
    enlarge(model)
    return artifact(root, "quantize", files(model, tokenizer_settings(config)))


def prior(root: Path, made_for: Artifact, conditional: bool = True, null_trained: bool = True) -> Artifact:
    """A prior over the tokenizer's codes."""
    torch.manual_seed(1)
    classes = CLASSES if conditional else []
    shape = PriorShape(StackConfig(2, 2, 16, 32), [2, 2], 16, len(classes), 0.1, null_trained, made_for.digest)
    model = ImagePrior(shape)
    enlarge(model)
    properties = {"conditional": conditional, "null_trained": null_trained, "classes": classes}
    properties |= {"tokenizer": made_for.digest}
    return artifact(root, "prior", files(model, prior_settings(shape)), properties=properties)


def codes(root: Path, made_by: Artifact, labels: dict[str, np.ndarray]) -> Artifact:
    """A code table whose codes depend on the split only, with these labels."""

    def write(split: str) -> Any:
        count = len(labels[split])
        numbers = np.random.default_rng(len(split)).integers(0, 16, size=(count, 4))
        meta = CodeMeta(split, (2, 2), 16, made_by.digest)
        keys = [f"{split}-{i:03d}" for i in range(count)]
        return lambda uri: write_codes(uri, keys, labels[split], np.zeros(count, np.int32), numbers, meta)

    named = {f"codes/{split}-00000-of-00001.parquet": write(split) for split in labels}
    splits = {split: len(values) for split, values in labels.items()}
    return artifact(
        root, "tokenize", named, properties={"tokenizer": made_by.digest, "classes": CLASSES, "splits": splits}
    )
