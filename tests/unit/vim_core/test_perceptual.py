"""The perceptual loss against LPIPS written out by hand over torchvision's VGG16 with the same random weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from vim_core.config import LossConfig
from vim_core.errors import ConfigError, DataError
from vim_core.perceptual import Perceptual
from vim_core.weights import WeightFile

CPU = torch.device("cpu")
RELUS = (3, 8, 15, 22, 29)
"""Layers of VGG16 whose outputs LPIPS compares: the last ReLU of every stage."""


@pytest.fixture(scope="module")
def backbone() -> nn.Sequential:
    torch.manual_seed(0)
    features: nn.Sequential = make_layers(cfgs["D"])
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.normal_(layer.bias, std=0.1)  # type: ignore[arg-type]
    features.requires_grad_(False)
    return features


@pytest.fixture(scope="module")
def published(backbone: nn.Sequential, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WeightFile, str]]:
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    state = {f"features.{name}": value for name, value in backbone.state_dict().items()}
    torch.save(state | {"classifier.0.weight": torch.zeros(2, 2)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    yield WeightFile("vgg16.pth", digest[:8], "backbone of the perceptual loss"), str(path)
    path.unlink()


def lpips_by_hand(features: nn.Sequential, a: Tensor, b: Tensor) -> Tensor:
    """Zhang et al. 2018: unit-normalised features, squared difference, learned channel weights, mean over places."""
    import lpips

    linear = torch.load(
        Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth", map_location="cpu", weights_only=True
    )
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    x, y = ((image * 2 - 1 - shift) / scale for image in (a, b))
    total = torch.zeros(len(a))
    for index, layer in enumerate(features):
        x, y = layer(x), layer(y)
        if index in RELUS:
            weight = linear[f"lin{RELUS.index(index)}.model.1.weight"]
            unit = [z / (z.norm(dim=1, keepdim=True) + 1e-10) for z in (x, y)]
            total += ((unit[0] - unit[1]).square() * weight).sum(1).mean(dim=(1, 2))
    return total.mean()


def test_equals_lpips_and_passes_gradients_into_the_fake(
    backbone: nn.Sequential, published: tuple[WeightFile, str]
) -> None:
    file, uri = published
    loss = Perceptual.create(LossConfig(perceptual=0.1, perceptual_weights=uri), CPU, file)
    assert loss is not None
    fake, real = torch.rand(2, 3, 32, 32).requires_grad_(), torch.rand(2, 3, 32, 32)
    value = loss(fake, real)
    torch.testing.assert_close(value, lpips_by_hand(backbone, fake, real), atol=1e-5, rtol=1e-4)
    assert float(value.detach()) > 0.01
    assert float(loss(real, real)) == 0
    value.backward()
    assert fake.grad is not None
    assert fake.grad.abs().max() > 0
    assert all(p.grad is None for p in loss.network.parameters())


def test_no_weight_no_network(tmp_path: Path) -> None:
    assert Perceptual.create(LossConfig(perceptual=0.0, perceptual_weights=str(tmp_path / "none")), CPU) is None


def test_an_empty_setting_is_refused_unless_the_loss_is_optional(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match=r"needs quantize\.loss\.perceptual_weights .*vgg16-397923af\.pth"):
        Perceptual.create(LossConfig(), CPU)
    assert Perceptual.create(LossConfig(perceptual_optional=True), CPU) is None
    assert "no perceptual loss" in caplog.text


def test_a_missing_or_wrong_file_is_refused_even_where_the_loss_is_optional(tmp_path: Path) -> None:
    path = tmp_path / "vgg.pth"
    config = LossConfig(perceptual_weights=str(path), perceptual_optional=True)
    with pytest.raises(DataError, match="no such file"):
        Perceptual.create(config, CPU)
    path.write_bytes(b"something else")
    with pytest.raises(DataError, match="sha256"):
        Perceptual.create(config, CPU)
