"""The perceptual loss against LPIPS written out by hand over torchvision's VGG16 with the same random weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from tests.support import gpu
from vim_core.config import DiscriminatorConfig, LossConfig
from vim_core.distributed.runtimes.cuda import CudaRuntime
from vim_core.errors import ConfigError, DataError
from vim_core.layers.discriminator import Blur, EqualConv
from vim_core.losses.perceptual import HEADS, Perceptual
from vim_core.models.discriminator import StyleGANDiscriminator
from vim_core.weights.saving import WeightFile

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


@pytest.fixture(scope="module")
def loss(published: tuple[WeightFile, str]) -> Perceptual:
    file, uri = published
    with pytest.MonkeyPatch.context() as patch:
        skip_initialisation(patch)
        made = Perceptual.create(LossConfig(perceptual=0.1, perceptual_weights=uri), CPU, file)
    assert made is not None
    return made


def skip_initialisation(patch: pytest.MonkeyPatch) -> None:
    """Leave the backbone that lpips draws at random as it comes: it is replaced, and drawing it takes seconds."""
    for name in ("kaiming_normal_", "kaiming_uniform_", "normal_"):
        patch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)


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


def test_equals_lpips_and_passes_gradients_into_the_fake(backbone: nn.Sequential, loss: Perceptual) -> None:
    fake, real = torch.rand(2, 3, 32, 32).requires_grad_(), torch.rand(2, 3, 32, 32)
    value, expected = loss(fake, real), lpips_by_hand(backbone, fake, real)
    torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-4)
    assert float(value.detach()) > 0.01
    assert float(loss(real, real)) == 0
    found, wanted = (torch.autograd.grad(distance, fake)[0] for distance in (value, expected))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-3)
    assert wanted.abs().max() > 0
    assert all(p.grad is None for p in loss.network.parameters())


def test_heads_are_the_trained_ones(
    loss: Perceptual, published: tuple[WeightFile, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import lpips

    path = Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth"
    trained = torch.load(path, map_location="cpu", weights_only=True)
    own = loss.network.state_dict()
    assert set(HEADS) == trained.keys()
    assert all(torch.equal(own[name], trained[name]) for name in HEADS)
    # Trained heads are not negative; random ones, as pretrained=False leaves them, are.
    assert all(own[name].min() >= 0 for name in HEADS)
    skip_initialisation(monkeypatch)
    whole = lpips.LPIPS
    monkeypatch.setattr(lpips, "LPIPS", lambda **settings: whole(**settings | {"pretrained": False}))
    file, uri = published
    with pytest.raises(DataError, match=r"heads of LPIPS are not those in use: lin0\.model\.1\.weight"):
        Perceptual.create(LossConfig(perceptual_weights=uri), CPU, file)


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


def test_the_distance_of_every_pair(loss: Perceptual) -> None:
    a, b = torch.rand(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    each = loss.per_image(a, b)
    assert each.shape == (3,)
    torch.testing.assert_close(each, torch.stack([loss(a[i : i + 1], b[i : i + 1]) for i in range(3)]))


def test_compiled_it_is_one_graph_of_the_same_distance(loss: Perceptual) -> None:
    """The eager backend: what is traced depends on no compiler."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    fake, real = (torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    forward: Any = torch.compile(loss.network, dynamic=False, backend="eager")
    torch.testing.assert_close(forward(fake, real), loss.network(fake, real))
    forward(fake, real)
    assert (counters["stats"]["unique_graphs"], len(counters["graph_break"])) == (1, 0)


def test_on_gpus_every_convolution_is_in_channels_last(loss: Perceptual, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own and the discriminator's but for the last 4x4 pixels; weights keep their format."""
    gpu.pretend(monkeypatch)
    runtime = CudaRuntime("fp32", 1)
    judge = StyleGANDiscriminator(DiscriminatorConfig(channels=8, base=256, stddev_group=2), 32)
    images, others = torch.rand(2, 2, 3, 32, 32)
    for network, batch in ((judge, [images]), (loss.network, [images, others])):
        formats: list[bool] = []
        watch = lambda layer, inputs: formats.append(inputs[0].is_contiguous(memory_format=torch.channels_last))  # noqa: B023, E731
        handles = [
            layer.register_forward_pre_hook(watch)
            for layer in network.modules()
            if isinstance(layer, nn.Conv2d | EqualConv | Blur) and layer is not judge.conv
        ]
        torch.testing.assert_close(runtime.convolve(network)(*batch), network(*batch), rtol=1e-4, atol=1e-5)
        for handle in handles:
            handle.remove()
        assert all(formats[: len(formats) // 2])
        assert all(parameter.is_contiguous() for parameter in network.parameters())
