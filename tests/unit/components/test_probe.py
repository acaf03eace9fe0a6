"""`probe`: the label never reaches the features; codes and priors that do not belong together are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components import probe
from components.contract.api import Artifact
from components.tokenize.plan import code_files
from tests.support import tiny_artifacts
from tests.support.synthetic import with_fields
from tests.support.tiny import runtime
from vim_core.config import ProbeConfig, RunConfig
from vim_core.errors import ConfigError
from vim_core.tasks.probe import ProbeTask
from vim_core.tasks.probe_data import ProbeData


def inputs(root: Path, shift: int = 0) -> dict[str, Artifact]:
    """All inputs; the labels of the code table are turned by `shift`."""
    labels = {split: (np.arange(count) + shift) % 3 for split, count in {"train": 13, "test": 5}.items()}
    tokenizer = tiny_artifacts.tokenizer(root)
    images = {"image_size": [8, 8], "splits": {"train": 40, "test": 20}}
    return {
        "images": with_fields(tiny_artifacts.images(root), properties=images),
        "codes": tiny_artifacts.codes(root, tokenizer, labels),
        "prior": tiny_artifacts.prior(root, tokenizer),
    }


def trained_task(root: Path, given: dict[str, Artifact], **fields: Any) -> ProbeTask:
    """The task as the component sets it up, trained for five steps."""
    images, codes, prior = given["images"], given["codes"], given["prior"]
    data = ProbeData(
        code_files(codes, "train"),
        code_files(codes, "test"),
        (prior.uri("model.safetensors"), prior.uri("config.json")),
        3,
        images.uris("images/train-"),
        images.uris("images/test-"),
        str(root / "cache"),
    )
    base: dict[str, Any] = {"steps": 5, "batch": 8, "validation_share": 0.3, "pixels": 8, "precision": "fp32"}
    config = ProbeConfig(**base | fields)
    made = ProbeTask(config, data, runtime())
    for step in range(5):
        made.step(step, made.batch(step))
    return made


def test_features_do_not_know_the_labels(tmp_path: Path) -> None:
    first, second = (trained_task(tmp_path / str(shift), inputs(tmp_path / str(shift), shift)) for shift in (0, 1))
    assert list(first.grams) == ["block_00", "block_01", "pixels"]
    for name, gram in first.grams.items():
        assert gram.inner.shape[1] == (193 if name == "pixels" else 17)
        assert torch.equal(gram.inner, second.grams[name].inner)
    for name in ("block_00", "block_01"):
        assert torch.equal(first.grams[name].outer, second.grams[name].outer.roll(-1, dims=-1))
        assert not torch.equal(first.grams[name].outer, second.grams[name].outer)


def test_every_block_and_the_pixels_are_scored(tmp_path: Path) -> None:
    record = json.loads(trained_task(tmp_path, inputs(tmp_path)).export()["accuracy.json"])
    assert len(record["blocks"]) == 2
    for entry in [*record["blocks"], record["pixels"]]:
        assert 0 <= entry["accuracy"] <= 1
        assert entry["weight_decay"] in ProbeConfig().weight_decays
        assert entry["learning_rate"] in ProbeConfig().learning_rates
        assert entry["ridge"]["penalty"] in ProbeConfig().ridge


def test_the_baseline_on_pixels_can_be_left_out(tmp_path: Path) -> None:
    made = trained_task(tmp_path, inputs(tmp_path), pixels=0)
    assert list(made.heads) == ["block_00", "block_01"]
    assert "pixels" not in json.loads(made.export()["accuracy.json"])


def entry(accuracy: float, validation: float = 0.0, ridge: float = 0.1) -> dict[str, Any]:
    regression = {"accuracy": ridge, "validation_accuracy": 0.0, "penalty": 1.0}
    chosen = {"accuracy": accuracy, "validation_accuracy": validation, "learning_rate": 0.1, "weight_decay": 1e-3}
    return {**chosen, "ridge": regression}


def test_the_best_block_makes_the_figure(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    blocks = [entry(0.2), entry(0.9, 0.3, ridge=0.3), entry(0.5, 0.8)]
    metrics, properties = probe.summarize_accuracy({"blocks": blocks, "pixels": entry(0.4)})
    expected = {"best_block": 1.0, "top1": 0.9, "chosen_block": 2.0, "chosen_top1": 0.5, "ridge_top1": 0.3}
    expected |= {"pixel_baseline_top1": 0.4, "block_00": 0.2, "block_01": 0.9, "block_02": 0.5}
    assert metrics == expected
    assert properties["accuracy_per_block"] == [0.2, 0.9, 0.5]
    assert properties["ridge_accuracy_per_block"] == [0.1, 0.3, 0.1]
    assert "pixel_baseline_top1" not in probe.summarize_accuracy({"blocks": blocks})[0]
    protocols = probe.protocols(ProbeConfig(), given)
    assert protocols["top1"]["network_digest"] == given["prior"].digest
    assert protocols["pixel_baseline_top1"]["count"] == protocols["top1"]["count"] == 20
    assert set(protocols) == {"top1", "chosen_top1", "ridge_top1", "pixel_baseline_top1"}


@pytest.mark.parametrize(
    ("fields", "local"),
    [({}, True), ({"workers": 2}, False), ({"ray_address": "h:1"}, False), ({"device": "xla"}, False)],
)
def test_a_cluster_is_used_where_there_is_one(fields: dict[str, Any], local: bool) -> None:
    assert probe.trains_locally(RunConfig(**fields)) is local


def test_a_prior_without_trained_null_class_is_refused(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    tokenizer = tiny_artifacts.tokenizer(tmp_path / "t")
    with pytest.raises(ConfigError, match=r"prior\.label_dropout > 0 or prior\.conditional=false"):
        probe.check(given["codes"], tiny_artifacts.prior(tmp_path / "p", tokenizer, null_trained=False))
    probe.check(given["codes"], tiny_artifacts.prior(tmp_path / "p", tokenizer, conditional=False))
