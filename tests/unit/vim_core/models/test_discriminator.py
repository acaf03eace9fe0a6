"""The StyleGAN2 discriminator: shapes, grouping, filters, refusals."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny import quantize_config
from vim_core.config import DiscriminatorConfig
from vim_core.errors import ConfigError
from vim_core.layers.discriminator import Blur, EqualConv, EqualLinear
from vim_core.models.discriminator import ResidualBlock, StyleGANDiscriminator, minibatch_stddev

SMALL = DiscriminatorConfig(channels=8, base=128, stddev_group=2)


@pytest.mark.parametrize("size", [8, 16, 32])
def test_one_logit_an_image(size: int) -> None:
    judge = StyleGANDiscriminator(SMALL, size)
    assert judge(torch.rand(4, 3, size, size)).shape == (4,)
    assert len(judge.blocks) == size.bit_length() - 3  # down to 4x4


def test_channels_halve_with_every_doubling_up_to_a_limit() -> None:
    judge = StyleGANDiscriminator(SMALL, 64)
    assert judge.from_rgb.weight.shape[0] == 2  # 128 // 64
    assert [block.skip.weight.shape[0] for block in judge.blocks] == [4, 8, 8, 8]  # type: ignore[union-attr,index]


@pytest.mark.parametrize("size", [4, 24, 100])
def test_other_image_sizes_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=f"quantize.image_size={size}"):
        StyleGANDiscriminator(SMALL, size)


def test_residual_block_halves_the_image() -> None:
    for size in (8, 16, 32):
        assert ResidualBlock(3, 5)(torch.randn(2, 3, size, size)).shape == (2, 5, size // 2, size // 2)


def test_residual_block_looks_at_both_branches() -> None:
    block, x = ResidualBlock(3, 5), torch.randn(2, 3, 8, 8)
    whole = block(x)
    with torch.no_grad():
        block.skip.weight.zero_()
    assert (whole - block(x)).abs().min() > 0


def test_blur_keeps_constants_inside_and_has_binomial_taps() -> None:
    flat = Blur((2, 2))(torch.ones(1, 2, 8, 8))
    assert flat.shape == (1, 2, 9, 9)
    torch.testing.assert_close(flat[:, :, 2:-2, 2:-2], torch.ones(1, 2, 5, 5))
    impulse = torch.zeros(1, 1, 9, 9)
    impulse[0, 0, 4, 4] = 64
    response = Blur((2, 1))(impulse)[0, 0, 3:7, 3:7]
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    torch.testing.assert_close(response, torch.outer(taps, taps))


def test_minibatch_stddev_by_hand() -> None:
    x = torch.randn(4, 3, 2, 2)
    result = minibatch_stddev(x, 2)
    assert torch.equal(result[:, :3], x)
    for first in (0, 2):
        pair = x[first : first + 2]
        expected = (pair[0] - pair[1]).abs().mean() / 2  # the deviation of two numbers is half their distance
        torch.testing.assert_close(result[first : first + 2, 3], expected.expand(2, 2, 2), atol=1e-4, rtol=1e-4)


def test_groups_do_not_depend_on_how_workers_split_the_batch() -> None:
    judge, images = StyleGANDiscriminator(SMALL, 8), torch.rand(8, 3, 8, 8)
    whole = minibatch_stddev(images, 2)
    parts = torch.cat([minibatch_stddev(images[:2], 2), minibatch_stddev(images[2:], 2)])
    assert torch.equal(whole, parts)
    torch.testing.assert_close(judge(images), torch.cat([judge(images[:4]), judge(images[4:])]))


def test_group_that_does_not_divide_the_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"stddev_group=4: does not divide a worker's batch of 6"):
        minibatch_stddev(torch.zeros(6, 1, 2, 2), 4)


def test_equalised_layers_keep_unit_variance() -> None:
    torch.manual_seed(0)
    conv = EqualConv(64, 64, 3)(torch.randn(8, 64, 16, 16))[:, :, 1:-1, 1:-1]
    assert 0.8 < float(conv.detach().std()) < 1.2
    assert 0.8 < float(EqualLinear(512, 256)(torch.randn(64, 512)).detach().std()) < 1.2


def test_a_base_without_channels_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"quantize\.discriminator\.base=4: must be at least quantize\.image_size=8"):
        quantize_config(discriminator=DiscriminatorConfig(channels=4, base=4))
