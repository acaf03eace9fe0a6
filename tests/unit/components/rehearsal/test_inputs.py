"""A rehearsal's generated inputs: pictures in the layout of the source, weights that are checked by their hash."""

from __future__ import annotations

import dataclasses
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from components.quantize import source_state
from components.rehearsal import images, weights
from components.rehearsal.shrink import CLASSES, TEST_IMAGES
from pipelines import presets
from vim_core.config import IngestConfig, LossConfig, QuantizeConfig
from vim_core.data.images import decode
from vim_core.errors import DataError
from vim_core.losses.perceptual import Perceptual


@pytest.mark.parametrize(
    ("split", "labelled", "pattern"),
    [("folders", True, "train/n*/*.jpg"), ("hash", True, "n*/train-*.jpg"), ("lists", False, "train-*.jpg")],
)
def test_pictures_lie_as_the_source_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str, labelled: bool, pattern: str
) -> None:
    monkeypatch.setattr(images, "TRAIN_IMAGES", 2)
    monkeypatch.setattr(images, "SCENES", 1)
    lists = ("a", "b") if split == "lists" else ("", "")
    ingest = IngestConfig(
        str(tmp_path / "none"), "", split=split, labelled=labelled, train_list=lists[0], test_list=lists[1]
    )
    assert not images.own_images(ingest)
    values = images.generate(str(tmp_path), ingest)
    source = Path(values["ingest.source"])
    assert len(list(source.glob(pattern))) == CLASSES * 2
    assert len(list(source.rglob("*.jpg"))) == CLASSES * (2 + TEST_IMAGES)
    assert images.own_images(dataclasses.replace(ingest, source=str(source)))
    written = {path: path.stat().st_mtime_ns for path in source.rglob("*.jpg")}
    assert images.generate(str(tmp_path), ingest) == values
    assert {path: path.stat().st_mtime_ns for path in written} == written
    if split == "lists":
        named = Path(values["ingest.test_list"]).read_text().split()
        assert len(named) == CLASSES * TEST_IMAGES
        assert all((source / name).is_file() for name in named)


def test_pictures_are_like_photographs_and_always_the_same() -> None:
    first, again = (list(islice(images.photographs(np.random.default_rng(0)), 3)) for _ in range(2))
    assert first == again
    assert len(set(first)) == 3
    pixels = decode(first[0]).astype(float)
    assert pixels.shape == (images.HEIGHT, images.WIDTH, 3)
    # Neighbours are alike, which noise's are not, and a photograph of this size has some tens of kilobytes.
    assert np.abs(np.diff(pixels, axis=1)).mean() < 0.3 * pixels.std()
    assert all(10_000 < len(data) < 300_000 for data in first)


@pytest.mark.slow
def test_generated_weights_are_checked_by_their_hash(tmp_path: Path) -> None:
    config = presets.load("imagenet256_base", [f"quantize.loss.perceptual_weights={tmp_path}/none.pth"])
    values = weights.generate(str(tmp_path / "weights"), config)
    uri, sha256 = values["quantize.loss.perceptual_weights"], values["quantize.loss.perceptual_sha256"]
    loss = LossConfig(perceptual_weights=uri, perceptual_sha256=sha256)
    network = Perceptual.create(loss, torch.device("cpu"))
    assert network is not None
    assert float(network(torch.zeros(1, 3, 32, 32), torch.rand(1, 3, 32, 32))) > 0
    for wrong in ("", "0" * 64):
        with pytest.raises(DataError, match="sha256 is"):
            Perceptual.create(dataclasses.replace(loss, perceptual_sha256=wrong), torch.device("cpu"))
    # The file that is there is used as it is; another backbone than torchvision's is part of the fingerprint.
    there = presets.load("imagenet256_base", [f"quantize.loss.perceptual_weights={uri}"])
    assert weights.generate(str(tmp_path / "more"), there) == {}
    assert source_state(QuantizeConfig(loss=loss)) != source_state(QuantizeConfig()) == ""
