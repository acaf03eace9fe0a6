"""The pipeline's classifier and torchvision's networks as feature extractors."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from vim_core.data.images import center_crop, to_tensor
from vim_core.errors import ConfigError, DataError
from vim_core.features import FeatureSpec, check_spec, extract_images, load_extractor
from vim_core.features.classifiers import ClassifierExtractor, build_torchvision, last_layer, transform_of
from vim_core.models.classifier import Classifier, ClassifierShape


def pictures(count: int, height: int = 40, width: int = 52) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(count, height, width, 3), dtype=np.uint8)


def test_the_classifiers_features_and_logits_are_its_own() -> None:
    torch.manual_seed(0)
    network = Classifier(ClassifierShape(image_size=16, classes=3, width=4, features=5)).eval()
    extractor = ClassifierExtractor(network, "d")
    images = pictures(3)
    with torch.inference_mode():
        inputs = to_tensor(np.stack([center_crop(image, 16) for image in images]))
        features, logits = network.features(inputs), network(inputs)
    found = extract_images(extractor, list(images))
    assert torch.equal(found.features, features)
    assert torch.equal(found.logits, logits)
    assert (extractor.dim, extractor.classes, extractor.size, extractor.published) == (5, 3, 16, False)


@pytest.mark.parametrize(
    ("name", "dim"),
    [("resnet18", 512), ("vgg11", 4096), ("squeezenet1_1", 512), ("vit_b_16", 768), ("convnext_tiny", 768),
     ("inception_v3", 2048), ("googlenet", 1024)],
)  # fmt: skip
def test_the_last_layer_of_every_family_is_found(name: str, dim: int) -> None:
    with torch.device("meta"):
        _, inputs, outputs = last_layer(build_torchvision(name))
    assert (inputs, outputs) == (dim, 1000)


def saved(name: str, folder: Path) -> tuple[FeatureSpec, Any]:
    """An untrained network of torchvision, and its file."""
    torch.manual_seed(0)
    network, path = torchvision.models.get_model(name).eval(), folder / "net.pth"
    torch.save(network.state_dict(), path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return FeatureSpec(f"torchvision:{name}", str(path), sha256=sha256), network


@pytest.mark.parametrize(("name", "dim"), [("shufflenet_v2_x0_5", 1024), ("squeezenet1_1", 512)])
def test_a_torchvision_network_by_name(tmp_path: Path, name: str, dim: int) -> None:
    """With a linear last layer, and with one over space, whose inputs are averaged."""
    spec, network = saved(name, tmp_path)
    extractor = load_extractor(spec)
    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    images = pictures(2)
    inputs = torch.stack([transform(Image.fromarray(image)) for image in images])
    trunk = network.features if name == "squeezenet1_1" else torch.nn.Sequential(*list(network.children())[:-1])
    with torch.inference_mode():
        features, logits = trunk(inputs).mean(dim=(2, 3)), network(inputs)
    found = extract_images(extractor, list(images))
    torch.testing.assert_close(found.features, features)
    torch.testing.assert_close(found.logits, logits)
    assert (extractor.name, extractor.dim, extractor.classes, extractor.size) == (name, dim, 1000, 224)
    assert extractor.digest.startswith(spec.sha256)
    assert "crop_size=[224]" in extractor.preprocessing
    assert "mean=[0.485, 0.456, 0.406]" in extractor.preprocessing


def test_the_hash_tells_which_published_preprocessing_applies() -> None:
    weights = torchvision.models.ResNet50_Weights
    first = weights.IMAGENET1K_V1.url.rsplit("-", 1)[-1].removesuffix(".pth")
    assert transform_of("resnet50", first + "0" * 56).resize_size == [256]
    assert transform_of("resnet50", "0" * 64).resize_size == weights.DEFAULT.transforms().resize_size == [232]


def test_missing_networks_and_weights_are_named(tmp_path: Path) -> None:
    spec, _ = saved("squeezenet1_1", tmp_path)
    with pytest.raises(ConfigError, match="did you mean resnet18"):
        check_spec(FeatureSpec("torchvision:resnet19", "x", sha256="0" * 8))
    with pytest.raises(ConfigError, match="must be one of classifier, inception, torchvision:<name>"):
        check_spec(FeatureSpec("clip", "x"))
    with pytest.raises(ConfigError, match=r"statistics\.weights is empty"):
        check_spec(FeatureSpec("torchvision:resnet18", "", sha256="0" * 8))
    with pytest.raises(DataError, match="sha256 is"):
        load_extractor(FeatureSpec(spec.network, spec.weights, sha256="0" * 8))
    with pytest.raises(DataError, match="does not fit torchvision:resnet18"):
        load_extractor(FeatureSpec("torchvision:resnet18", spec.weights, sha256=spec.sha256))
