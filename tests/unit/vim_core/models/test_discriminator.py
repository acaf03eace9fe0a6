"""The StyleGAN2 discriminator: shapes, grouping, refusals, and its formulas written out (Karras et al. 2020)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.support.tiny import quantize_config
from vim_core.config import DiscriminatorConfig
from vim_core.errors import ConfigError
from vim_core.layers.discriminator import Blur
from vim_core.losses.adversarial import r1_penalty
from vim_core.models.discriminator import StyleGANDiscriminator, minibatch_stddev

SMALL = DiscriminatorConfig(channels=8, base=128, stddev_group=2)


def test_channels_halve_with_every_doubling_up_to_a_limit() -> None:
    network = StyleGANDiscriminator(SMALL, 64)
    assert network.from_rgb.weight.shape[0] == 2  # 128 // 64
    assert [block.skip.weight.shape[0] for block in network.blocks] == [4, 8, 8, 8]  # type: ignore[union-attr,index]


@pytest.mark.parametrize("size", [4, 24, 100])
def test_other_image_sizes_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=f"quantize.image_size={size}"):
        StyleGANDiscriminator(SMALL, size)


def test_groups_do_not_depend_on_how_workers_split_the_batch() -> None:
    network, images = StyleGANDiscriminator(SMALL, 8), torch.rand(8, 3, 8, 8)
    whole = minibatch_stddev(images, 2)
    parts = torch.cat([minibatch_stddev(images[:2], 2), minibatch_stddev(images[2:], 2)])
    assert torch.equal(whole, parts)
    torch.testing.assert_close(network(images), torch.cat([network(images[:4]), network(images[4:])]))


def test_a_base_without_channels_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"quantize\.discriminator\.base=4: must be at least quantize\.image_size=8"):
        quantize_config(discriminator=DiscriminatorConfig(channels=4, base=4))


TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8


def convolve(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """Correlation without padding, as a sum over the taps of shifted images."""
    side = (x.shape[2] - weight.shape[2]) // stride + 1
    total = torch.zeros(len(x), len(weight), side, side, dtype=x.dtype)
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            window = x[:, :, i : i + stride * (side - 1) + 1 : stride, j : j + stride * (side - 1) + 1 : stride]
            total = total + torch.einsum("bchw,oc->bohw", window, weight[:, :, i, j])
    return total


def padded(x: Tensor, before: int, after: int) -> Tensor:
    """Zeros around the image."""
    batch, channels, height, width = x.shape
    frame = torch.zeros(batch, channels, before + height + after, before + width + after, dtype=x.dtype)
    frame[:, :, before : before + height, before : before + width] = x
    return frame


def blurred(x: Tensor, pad: int) -> Tensor:
    """[1, 3, 3, 1] over rows, then over columns, of the image with `pad` zeros around."""
    x = padded(x, pad, pad)
    x = sum(TAPS[i] * x[:, :, i : x.shape[2] - 3 + i] for i in range(4))  # type: ignore[assignment]
    return sum(TAPS[i] * x[:, :, :, i : x.shape[3] - 3 + i] for i in range(4))  # type: ignore[return-value]


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x) * 2**0.5


def equalised(weight: Tensor) -> Tensor:
    """He's constant applied at run time: the square root of one over the fan-in (gain 1)."""
    return weight / math.sqrt(weight[0].numel())


def residual(x: Tensor, p: dict[str, Tensor], name: str) -> Tensor:
    """Conv 3x3, conv 3x3 blurred and halved; beside it a 1x1 skip, blurred and halved; over the square root of 2."""
    y = leaky(convolve(padded(x, 1, 1), equalised(p[f"{name}conv1.weight"])) + p[f"{name}conv1.bias"].view(1, -1, 1, 1))
    # Halving a 3x3 convolution needs one pixel more around than the blur's own two and one.
    y = convolve(blurred(y, 2), equalised(p[f"{name}conv2.weight"]), stride=2)
    y = leaky(y + p[f"{name}conv2.bias"].view(1, -1, 1, 1))
    skip = convolve(blurred(x, 1)[:, :, ::2, ::2], equalised(p[f"{name}skip.weight"]))
    return (y + skip) / 2**0.5


def deviation_channel(x: Tensor, group: int) -> Tensor:
    """For every image the standard deviation over its group of neighbours, averaged over channels and places."""
    rows = []
    for first in range(0, len(x), group):
        members = x[first : first + group]
        mean = members.sum(0) / group
        variance = ((members - mean) ** 2).sum(0) / group
        rows += [((variance + 1e-8) ** 0.5).mean()] * group
    return torch.stack(rows).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])


def reference(images: Tensor, p: dict[str, Tensor], blocks: int, group: int) -> Tensor:
    """Logits [B] of images [B, 3, S, S] in [0, 1]."""
    x = leaky(convolve(images * 2 - 1, equalised(p["from_rgb.weight"])) + p["from_rgb.bias"].view(1, -1, 1, 1))
    for index in range(blocks):
        x = residual(x, p, f"blocks.{index}.")
    x = torch.cat([x, deviation_channel(x, group)], 1)
    x = leaky(convolve(padded(x, 1, 1), equalised(p["conv.weight"])) + p["conv.bias"].view(1, -1, 1, 1))
    x = leaky(x.reshape(len(x), -1) @ equalised(p["hidden.weight"]).T + p["hidden.bias"])
    return (x @ equalised(p["out.weight"]).T + p["out.bias"])[:, 0]


@pytest.fixture(scope="module")
def network() -> StyleGANDiscriminator:
    torch.manual_seed(0)
    made = StyleGANDiscriminator(DiscriminatorConfig(channels=6, base=64, stddev_group=2), 16).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)  # biases start at zero and would not be seen
    return made


def images_of(count: int = 4, size: int = 16) -> Tensor:
    return torch.rand(count, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def logits_of(network: StyleGANDiscriminator, images: Tensor) -> tuple[Tensor, Tensor]:
    # The network speaks in fp32; its last layer is asked instead, which is the same number before rounding.
    heard: list[Tensor] = []
    handle = network.out.register_forward_hook(lambda module, inputs, output: heard.append(output[:, 0]))
    rounded = network(images)
    handle.remove()
    assert torch.equal(rounded, heard[0].float())
    return heard[0], reference(images, dict(network.named_parameters()), len(network.blocks), network.group)


def test_logits_and_gradients_are_those_of_the_formulas(network: StyleGANDiscriminator) -> None:
    images = images_of().requires_grad_()
    found, expected = logits_of(network, images)
    torch.testing.assert_close(found, expected)
    names, parameters = zip(*network.named_parameters(), strict=True)
    weights = torch.randn(len(images), dtype=torch.float64)
    mine = torch.autograd.grad(found @ weights, (images, *parameters))
    theirs = torch.autograd.grad(expected @ weights, (images, *parameters))
    for name, a, b in zip(("images", *names), mine, theirs, strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")  # type: ignore[misc]
        assert b.abs().max() > 0, name


def test_r1_and_its_gradients_are_those_of_the_formulas(network: StyleGANDiscriminator) -> None:
    images = images_of().requires_grad_()
    found, expected = logits_of(network, images)
    mine, theirs = r1_penalty(found, images), r1_penalty(expected, images)
    torch.testing.assert_close(mine, theirs)
    parameters = [value for name, value in network.named_parameters() if name != "out.bias"]
    for a, b in zip(*(torch.autograd.grad(r, parameters, materialize_grads=True) for r in (mine, theirs)), strict=True):
        torch.testing.assert_close(a, b)


def test_a_strided_blur_is_every_second_pixel_of_the_blur() -> None:
    """Also in bf16 under autocast, to its rounding and as bf16."""
    x = torch.rand(2, 5, 8, 8)
    expected = blurred(x.double(), 1)[:, :, ::2, ::2].float()
    torch.testing.assert_close(Blur((1, 1), stride=2)(x), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(Blur((1, 1), stride=2)(x.bfloat16()), expected.bfloat16(), rtol=2**-7, atol=0)
