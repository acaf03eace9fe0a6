"""Spectral norm against singular values and torch's own; patch discriminator against plain layers; LeCam averages."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vim_core.config import DiscriminatorConfig, LeCamConfig
from vim_core.errors import ConfigError
from vim_core.layers.discriminator import EqualConv, EqualLinear, SpectralNorm, advance_spectral
from vim_core.losses.adversarial import LeCam
from vim_core.models.discriminator import PatchDiscriminator, make_discriminator

SMALL: dict[str, Any] = {"channels": 16, "base": 128, "stddev_group": 2}


@pytest.mark.parametrize("layer", [EqualConv(5, 7, 3, spectral=True), EqualLinear(6, 4, spectral=True)])
def test_largest_singular_value_becomes_one(layer: EqualConv | EqualLinear) -> None:
    for _ in range(200):
        advance_spectral(layer)
    values = torch.linalg.svdvals(layer.effective_weight().detach().flatten(1))
    assert float(values[0]) == pytest.approx(1.0, abs=1e-4)
    expected = layer.weight / torch.linalg.svdvals(layer.weight.detach().flatten(1))[0]
    torch.testing.assert_close(layer.effective_weight(), expected, atol=1e-4, rtol=1e-4)


def test_equals_torchs_parametrization_step_by_step() -> None:
    torch.manual_seed(0)
    theirs: Any = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4), eps=1e-12)
    own = theirs.parametrizations.weight
    weight = own.original.detach().clone().requires_grad_()
    mine = SpectralNorm(weight)
    mine.left.copy_(own[0]._u)
    mine.right.copy_(own[0]._v)
    upstream = torch.randn(4, 6)
    for _ in range(3):
        mine.advance(weight)
        result, expected = mine(weight), theirs.weight  # reading theirs in training mode moves its vectors
        torch.testing.assert_close(result, expected)
        found = torch.autograd.grad(result, weight, upstream)[0]
        wanted = torch.autograd.grad(expected, own.original, upstream)[0]
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("kind", ["stylegan", "patch"])
def test_singular_vectors_move_in_advance_alone_and_are_saved(kind: str) -> None:
    torch.manual_seed(0)
    config = DiscriminatorConfig(kind=kind, spectral_norm=True, **SMALL)
    network = make_discriminator(config, 32).train()
    images = torch.rand(4, 3, 32, 32)
    before = copy.deepcopy(network.state_dict())
    first = network(images)
    network(images + 1).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    advance_spectral(network)
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    vectors = {name for name in before if "spectral" in name}
    weights = {name for name in before if name.endswith("weight")}
    assert {name for name in vectors if before[name].numel() > 1} <= moved
    assert len(vectors) == 2 * len(weights)
    again = make_discriminator(config, 32)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(images), network(images))
    assert not torch.equal(first, network(images))


def patch_reference(images: Tensor, state: dict[str, Tensor], groups: list[int | None]) -> Tensor:
    """pix2pix's stack from plain functions: stride 2 but for the last two layers."""
    x = images * 2 - 1
    for index, count in enumerate(groups):
        last = index == len(groups) - 1
        stride = 1 if index >= len(groups) - 2 else 2
        name = f"blocks.{index}."
        x = F.conv2d(x, state[name + "weight"], state.get(name + "bias"), stride=stride, padding=1)
        if count is not None:
            grouped = x.reshape(len(x), count, -1)
            mean, variance = grouped.mean(2, keepdim=True), grouped.var(2, unbiased=False, keepdim=True)
            x = ((grouped - mean) / (variance + 1e-5).sqrt()).view_as(x)
            x = x * state[name + "norm.weight"].view(1, -1, 1, 1) + state[name + "norm.bias"].view(1, -1, 1, 1)
        x = x if last else torch.where(x > 0, x, 0.2 * x)
    return x[:, 0]


def test_patch_discriminator_is_pix2pixs_stack() -> None:
    torch.manual_seed(0)
    network = PatchDiscriminator(DiscriminatorConfig(kind="patch", channels=64), 32)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    blocks: Any = network.blocks
    assert [tuple(block.weight.shape[:2]) for block in blocks] == [(8, 3), (16, 8), (32, 16), (64, 32), (1, 64)]
    images = torch.rand(2, 3, 32, 32)
    expected = patch_reference(images, network.state_dict(), [None, 16, 32, 32, None])
    torch.testing.assert_close(network(images), expected, atol=1e-4, rtol=1e-4)
    assert network(images).shape == (2, 2, 2)


def test_a_logit_of_the_default_stack_sees_70_pixels() -> None:
    torch.manual_seed(0)
    network = PatchDiscriminator(DiscriminatorConfig(kind="patch", channels=8, spectral_norm=True), 256)
    images = torch.rand(1, 3, 256, 256, requires_grad=True)
    logits = network(images)
    assert logits.shape == (1, 30, 30)
    (gradient,) = torch.autograd.grad(logits[0, 15, 15], images)
    rows = gradient.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    assert int(rows.max() - rows.min()) + 1 == 70


def test_patch_logits_do_not_depend_on_the_other_images() -> None:
    network = PatchDiscriminator(DiscriminatorConfig(kind="patch", channels=16), 32)
    images = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(network(images), torch.cat([network(images[:1]), network(images[1:])]))


def test_patch_sizes_that_do_not_work_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"patch_layers=4: leaves 2 of 32 pixels"):
        make_discriminator(DiscriminatorConfig(kind="patch", patch_layers=4), 32)
    with pytest.raises(ConfigError, match=r"channels=12: must be divisible by 8"):
        make_discriminator(DiscriminatorConfig(kind="patch", channels=12), 32)


def test_lecam_follows_the_means_with_warmed_up_decay() -> None:
    lecam, going = LeCam(LeCamConfig(weight=0.5, decay=0.6)), torch.tensor(0.0)
    expected = [0.0, 0.0]
    for step in range(10):
        values = [float(step), -2.0 * step]
        lecam.observe(step, torch.tensor(values[0]), torch.tensor(values[1]), going)
        decay = min(0.6, (1 + step) / (10 + step))
        expected = [decay * old + (1 - decay) * new for old, new in zip(expected, values, strict=True)]
        assert [float(lecam.real), float(lecam.fake)] == pytest.approx(expected, rel=1e-5)
    real, fake = torch.tensor([9.0, 1.0]), torch.tensor([-1.0, 20.0])
    by_hand = (F.relu(real - expected[1]) ** 2).mean() + (F.relu(expected[0] - fake) ** 2).mean()
    assert float(lecam.penalty(real, fake)) == pytest.approx(0.5 * float(by_hand), rel=1e-5)


@pytest.mark.parametrize(("value", "skipped"), [(torch.nan, 0.0), (torch.inf, 0.0), (torch.nan, 1.0), (3.0, 1.0)])
def test_lecam_averages_take_nothing_from_a_broken_step(value: float, skipped: float) -> None:
    lecam = LeCam(LeCamConfig(weight=0.5))
    lecam.observe(0, torch.tensor(1.0), torch.tensor(-1.0), torch.tensor(0.0))
    before = copy.deepcopy(lecam.state_dict())
    lecam.observe(1, torch.tensor(value), torch.tensor(2.0), torch.tensor(skipped))
    lecam.observe(1, torch.tensor(2.0), torch.tensor(value), torch.tensor(skipped))
    assert all(torch.equal(value, before[name]) for name, value in lecam.state_dict().items())
