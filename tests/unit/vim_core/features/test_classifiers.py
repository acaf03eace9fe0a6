"""The pipeline's classifier and torchvision's networks as feature extractors."""

from __future__ import annotations

import hashlib
from pathlib import Path

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


@pytest.fixture
def saved(tmp_path: Path) -> FeatureSpec:
    torch.manual_seed(0)
    path = tmp_path / "net.pth"
    torch.save(torchvision.models.resnet18(num_classes=1000).state_dict(), path)
    return FeatureSpec("torchvision:resnet18", str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest()[:16])


def test_a_torchvision_network_by_name(saved: FeatureSpec) -> None:
    extractor = load_extractor(saved)
    network = torchvision.models.resnet18()
    network.load_state_dict(torch.load(saved.weights, weights_only=True))
    transform = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    images = pictures(2)
    inputs = torch.stack([transform(Image.fromarray(image)) for image in images])
    trunk = torch.nn.Sequential(*list(network.eval().children())[:-1])
    with torch.inference_mode():
        features, logits = trunk(inputs).flatten(1), network(inputs)
    found = extract_images(extractor, list(images))
    torch.testing.assert_close(found.features, features)
    torch.testing.assert_close(found.logits, logits)
    assert (extractor.name, extractor.dim, extractor.classes, extractor.size) == ("resnet18", 512, 1000, 224)
    assert extractor.digest.startswith(saved.sha256)
    assert "crop_size=[224]" in extractor.preprocessing
    assert "mean=[0.485, 0.456, 0.406]" in extractor.preprocessing


def test_spatial_features_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(torchvision.models.squeezenet1_1().state_dict(), path)
    extractor = load_extractor(
        FeatureSpec("torchvision:squeezenet1_1", str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    )
    found = extract_images(extractor, list(pictures(2)))
    assert (found.features.shape, found.logits.shape) == ((2, 512), (2, 1000))


def test_the_hash_tells_which_published_preprocessing_applies() -> None:
    weights = torchvision.models.ResNet50_Weights
    first = weights.IMAGENET1K_V1.url.rsplit("-", 1)[-1].removesuffix(".pth")
    assert transform_of("resnet50", first + "0" * 56).resize_size == [256]
    assert transform_of("resnet50", "0" * 64).resize_size == weights.DEFAULT.transforms().resize_size == [232]


def test_missing_networks_and_weights_are_named(saved: FeatureSpec) -> None:
    with pytest.raises(ConfigError, match="did you mean resnet18"):
        check_spec(FeatureSpec("torchvision:resnet19", "x", sha256="0" * 8))
    with pytest.raises(ConfigError, match="must be one of classifier, inception, torchvision:<name>"):
        check_spec(FeatureSpec("clip", "x"))
    with pytest.raises(ConfigError, match=r"statistics\.weights is empty"):
        check_spec(FeatureSpec("torchvision:resnet18", "", sha256="0" * 8))
    with pytest.raises(DataError, match="sha256 is"):
        load_extractor(FeatureSpec("torchvision:resnet18", saved.weights, sha256="0" * 8))
    with pytest.raises(DataError, match="does not fit torchvision:resnet34"):
        load_extractor(FeatureSpec("torchvision:resnet34", saved.weights, sha256=saved.sha256))
