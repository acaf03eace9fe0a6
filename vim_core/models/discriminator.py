"""Discriminators of the tokenizer's adversarial loss; StyleGAN2's by default (paper section 3.3).

Residual blocks with blur, equalised learning rate and minibatch standard deviation: Karras et al. 2020, 'Analyzing and
Improving the Image Quality of StyleGAN'.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vim_core.config import DiscriminatorConfig
from vim_core.errors import ConfigError
from vim_core.layers.discriminator import GAIN, Blur, EqualConv, EqualLinear, scaled_leaky_relu
from vim_core.models.patch_discriminator import PatchDiscriminator


class ResidualBlock(nn.Module):
    """Downsample by two: conv, blur, strided conv beside a blurred, strided skip."""

    def __init__(self, inputs: int, outputs: int, spectral: bool = False) -> None:
        super().__init__()
        self.conv1 = EqualConv(inputs, inputs, 3, spectral=spectral)
        self.blur2 = Blur((2, 2))
        self.conv2 = EqualConv(inputs, outputs, 3, stride=2, spectral=spectral)
        self.blur_skip = Blur((1, 1))
        self.skip = EqualConv(inputs, outputs, 1, stride=2, bias=False, spectral=spectral)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / 2, W / 2]."""
        y = scaled_leaky_relu(self.conv2(self.blur2(scaled_leaky_relu(self.conv1(x)))))
        return (y + self.skip(self.blur_skip(x))) / GAIN  # type: ignore[no-any-return]


def check_stddev_group(group: int, batch: int) -> None:
    """Raise `ConfigError` unless the group divides the images that the discriminator sees at a time."""
    if batch % group:
        raise ConfigError(f"quantize.discriminator.stddev_group={group}: does not divide a worker's batch of {batch}")


def minibatch_stddev(x: Tensor, group: int) -> Tensor:
    """Append the mean standard deviation within groups of consecutive images as one more channel.

    [B, C, H, W] -> [B, C + 1, H, W]. Consecutive groups give the same values however workers share a batch.

    Raises:
        ConfigError: the group does not divide the batch.
    """
    batch, _, height, width = x.shape
    check_stddev_group(group, batch)
    y = x.float().reshape(batch // group, group, *x.shape[1:])  # [B / group, group, C, H, W]
    deviation = (y.var(dim=1, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))  # [B / group]
    channel = deviation.repeat_interleave(group).view(batch, 1, 1, 1).expand(batch, 1, height, width)
    return torch.cat([x, channel.to(x.dtype)], dim=1)


class StyleGANDiscriminator(nn.Module):
    """StyleGAN2's: images [B, 3, S, S] in [0, 1] (S a power of two, at least 8) to logits [B].

    Raises:
        ConfigError: the image size is not a power of two of at least 8.
    """

    def __init__(self, config: DiscriminatorConfig, image_size: int) -> None:
        super().__init__()
        levels = int(math.log2(image_size))
        if 2**levels != image_size or image_size < 8:
            raise ConfigError(
                f"quantize.image_size={image_size}: the discriminator needs a power of two of at least 8; "
                "quantize.loss.adversarial=0 does without it"
            )
        self.group = config.stddev_group
        spectral = config.spectral_norm

        def channels(size: int) -> int:
            return min(config.base // size, config.channels)

        self.from_rgb = EqualConv(3, channels(image_size), 1, spectral=spectral)
        sizes = [2**level for level in range(levels, 2, -1)]
        self.blocks = nn.ModuleList(ResidualBlock(channels(size), channels(size // 2), spectral) for size in sizes)
        top = channels(4)
        self.conv = EqualConv(top + 1, top, 3, spectral=spectral)
        self.hidden = EqualLinear(top * 16, top, spectral)
        self.out = EqualLinear(top, 1, spectral)

    def draw_order(self) -> Iterator[nn.Module]:
        """All modules in the order in which construction draws their weights."""
        return self.modules()

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> logits [B] in fp32."""
        x = scaled_leaky_relu(self.from_rgb(images * 2 - 1))
        for block in self.blocks:
            x = block(x)
        x = scaled_leaky_relu(self.conv(minibatch_stddev(x, self.group)))
        x = scaled_leaky_relu(self.hidden(x.flatten(1)))
        return self.out(x).squeeze(1).float()  # type: ignore[no-any-return]


Discriminator = StyleGANDiscriminator | PatchDiscriminator
"""Either kind of `discriminator.kind`."""


def make_discriminator(config: DiscriminatorConfig, image_size: int) -> Discriminator:
    """The discriminator of `discriminator.kind` for images of this side.

    Raises:
        ConfigError: it does not take images of this size.
    """
    return (PatchDiscriminator if config.kind == "patch" else StyleGANDiscriminator)(config, image_size)
