"""`probe`: the label never reaches the features, and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components import probe
from components.api import Artifact
from tests.synthetic import artifact, image_files, rows, with_fields
from tests.unit.components import models
from tests.unit.vim_core.tiny import pixels
from vim_core.config import ProbeConfig
from vim_core.errors import ConfigError, LineageError
from vim_core.tasks import probe as task

COUNTS = {"train": 30, "test": 9}


def inputs(root: Path, shift: int = 0) -> dict[str, Artifact]:
    """All inputs; the labels of the code table are turned by `shift`."""
    labels = {split: (np.arange(count) + shift) % 3 for split, count in COUNTS.items()}
    tokenizer = models.tokenizer(root)
    images: dict[str, Any] = {}
    for split, count in COUNTS.items():
        keys = [f"{split}-{i:03d}" for i in range(count)]
        images |= image_files(split, rows(keys, [i % 3 for i in range(count)], pixels(count, 8)), 1)
    return {
        "images": artifact(
            root, "ingest", images, properties={"image_size": [8, 8], "splits": {"train": 40, "test": 20}}
        ),
        "codes": models.codes(root, tokenizer, labels),
        "prior": models.prior(root, tokenizer),
    }


def worked(root: Path, given: dict[str, Artifact]) -> dict[str, Any]:
    target = root / "accuracy.json"
    probe.work({**given, "config": ProbeConfig(steps=5, batch=8), "threads": 1, "cache": "", "target": str(target)})
    found: dict[str, Any] = json.loads(target.read_text())
    return found


def test_features_do_not_know_the_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.Tensor, ...]] = []
    own = task.linear_probe

    def watched(train: Any, test: Any, *others: Any) -> Any:
        seen.append((train[0], test[0], train[1], test[1]))
        return own(train, test, *others)

    monkeypatch.setattr(task, "linear_probe", watched)
    for shift in (0, 1):
        worked(tmp_path / str(shift), inputs(tmp_path / str(shift), shift))
    first, second = seen[:3], seen[3:]  # two blocks, then pixels
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
    for block in (0, 1):
        assert first[block][0].shape == (30, 16)
        assert not torch.equal(first[block][2], second[block][2])
        assert torch.equal(second[block][3], (first[block][3] + 1) % 3)
    assert first[2][0].shape == (30, 192)


def test_every_block_and_the_pixels_are_scored(tmp_path: Path) -> None:
    record = worked(tmp_path, inputs(tmp_path))
    assert len(record["blocks"]) == 2
    for entry in [*record["blocks"], record["pixels"]]:
        assert 0 <= entry["accuracy"] <= 1
        assert entry["weight_decay"] in ProbeConfig().weight_decays


def test_the_best_block_makes_the_figure(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    blocks = [{"accuracy": value, "weight_decay": 1e-3} for value in (0.2, 0.9, 0.5)]
    record = {"blocks": blocks, "pixels": {"accuracy": 0.4, "weight_decay": 1e-3}}
    outcome = probe._outcome(record, ProbeConfig(), "here", given)
    expected = {"best_block": 1.0, "top1": 0.9, "pixel_baseline_top1": 0.4}
    assert outcome.metrics == expected | {"block_00": 0.2, "block_01": 0.9, "block_02": 0.5}
    assert outcome.properties["accuracy_per_block"] == [0.2, 0.9, 0.5]
    assert outcome.protocols["top1"]["network_digest"] == given["prior"].digest
    assert outcome.protocols["pixel_baseline_top1"]["count"] == outcome.protocols["top1"]["count"] == 20


def test_codes_and_prior_of_two_tokenizers_are_refused(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    other = with_fields(given["codes"], properties={"tokenizer": "another"})
    with pytest.raises(LineageError, match="belong to different tokenizers"):
        probe.check(other, given["prior"])


def test_a_prior_without_trained_null_class_is_refused(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    tokenizer = models.tokenizer(tmp_path / "t")
    with pytest.raises(ConfigError, match=r"prior\.label_dropout > 0 or prior\.conditional=false"):
        probe.check(given["codes"], models.prior(tmp_path / "p", tokenizer, null_trained=False))
    probe.check(given["codes"], models.prior(tmp_path / "p", tokenizer, conditional=False))
