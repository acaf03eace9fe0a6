"""The network of FID against torch-fidelity's outputs for the same weights, and its resize to the bit."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support import random_inception
from vim_core.errors import ConfigError, DataError
from vim_core.features import FeatureSpec, check_spec, extract_images, load_extractor
from vim_core.features.inception import PUBLISHED, InceptionExtractor, tf1_bilinear

NAMES = {"spatial": "spatial2023"}
"""Outputs that have another name in the reference file."""


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return random_inception.state()


@pytest.fixture(scope="module")
def extractor(weights: dict[str, Tensor]) -> InceptionExtractor:
    return InceptionExtractor(weights, PUBLISHED.sha256 + "0" * 56)


@pytest.fixture(scope="module")
def reference() -> Any:
    folder = os.environ.get("VIM_TEST_DATA")
    if not folder:
        pytest.skip("VIM_TEST_DATA names no folder with inception_random_weights_reference.npz")
    return np.load(Path(folder) / "inception_random_weights_reference.npz", allow_pickle=False)


def distance(found: Tensor, expected: np.ndarray) -> float:
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(("images", "rows"), [("cifar", [63]), ("inet256", [3])])
def test_every_output_is_the_reference(
    extractor: InceptionExtractor, reference: Any, images: str, rows: list[int]
) -> None:
    batch = torch.stack([extractor.prepare(reference[f"{images}_u8"][row]) for row in rows])
    with torch.inference_mode():
        outputs = extractor.network(batch)
    assert set(outputs) == {"64", "192", "768", "2048", "logits", "logits_unbiased", "spatial"}
    for name, output in outputs.items():
        assert distance(output, reference[f"{images}_{NAMES.get(name, name)}"][rows]) < 1e-4
    found = extractor.extract(batch)
    assert distance(found.features, reference[f"{images}_2048"][rows]) < 1e-4
    assert distance(found.logits, reference[f"{images}_logits_unbiased"][rows]) < 1e-4
    assert found.spatial is not None
    assert found.spatial.shape[1] == extractor.spatial
    assert distance(found.spatial, reference[f"{images}_spatial2023"][rows]) < 1e-4
    other = reference[f"{images}_pytorchfid2048"][rows]
    assert distance(found.features, other) > 1e-3, "pytorch-fid's resize is another one"


def test_the_resize_is_tensorflows_to_the_bit(extractor: InceptionExtractor, reference: Any) -> None:
    found = tf1_bilinear(torch.from_numpy(reference["cifar_u8"][:1]).permute(0, 3, 1, 2).float(), 299)
    np.testing.assert_array_equal(found.numpy(), reference["cifar0_resized299_tf1"])


@pytest.mark.parametrize("shape", [(32, 32), (299, 299), (300, 517), (64, 20)])
def test_the_resize_is_torch_fidelitys_to_the_bit(shape: tuple[int, int]) -> None:
    module = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    images = torch.randint(0, 256, (2, 3, *shape), generator=torch.Generator().manual_seed(0)).float()
    expected = module.interpolate_bilinear_2d_like_tensorflow1x(images, (299, 299), align_corners=False)
    assert torch.equal(tf1_bilinear(images, 299), expected)


@pytest.mark.slow
def test_equals_torch_fidelitys_network(
    extractor: InceptionExtractor, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.save(weights, tmp_path / "net.pth")
    theirs = module.FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], str(tmp_path / "net.pth"))
    images = np.random.default_rng(0).integers(0, 256, size=(2, 40, 40, 3), dtype=np.uint8)
    features, logits = theirs(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    found = extract_images(extractor, list(images))
    torch.testing.assert_close(found.features, features, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.logits, logits, rtol=1e-5, atol=1e-5)


def test_images_of_any_size_go_into_one_batch(extractor: InceptionExtractor) -> None:
    sizes = [(20, 30), (400, 300)]
    prepared = [extractor.prepare(np.zeros((*size, 3), np.uint8)) for size in sizes]
    assert {tuple(each.shape) for each in prepared} == {(3, 299, 299)}
    assert float(prepared[0].max()) == -1.0


def test_only_the_published_file_is_fid_and_a_square_may_come_first(
    extractor: InceptionExtractor, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = str(tmp_path / "own.pth")
    torch.save({name: value for name, value in weights.items() if "batches_tracked" not in name}, path)
    own = load_extractor(FeatureSpec("inception", path, sha256=_sha256(path), image_size=16))
    assert (own.name, own.dim, own.classes, own.published) == ("inception", 2048, 1008, False)
    assert extractor.published
    image = np.random.default_rng(0).integers(0, 256, size=(16, 20, 3), dtype=np.uint8)
    assert torch.equal(own.prepare(image), extractor.prepare(image[:, 2:18]))
    assert own.preprocessing.startswith("short side to 16 pixels")


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_what_is_missing_is_said(weights: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"statistics\.weights is empty.*weights-inception-2015-12-05-6726825d\.pth"):
        check_spec(FeatureSpec("inception", ""))
    with pytest.raises(DataError, match="no such file; it should be weights-inception-2015"):
        load_extractor(FeatureSpec("inception", str(tmp_path / "nowhere.pth")))
    path = str(tmp_path / "other.pth")
    torch.save({"fc.weight": weights["fc.weight"]}, path)
    with pytest.raises(DataError, match=f"has {PUBLISHED.sha256}"):
        load_extractor(FeatureSpec("inception", path))
    with pytest.raises(DataError, match="does not fit inception"):
        load_extractor(FeatureSpec("inception", path, sha256=_sha256(path)))


def test_published_weights_give_published_figures() -> None:
    """Needs the real file; CIFAR's figures need CIFAR too, so here only that it loads as FID's own."""
    uri = os.environ.get("VIM_INCEPTION_WEIGHTS")
    if not uri:
        pytest.skip("VIM_INCEPTION_WEIGHTS names no weights-inception-2015-12-05-6726825d.pth")
    assert load_extractor(FeatureSpec("inception", uri)).published
