"""Discriminators of the tokenizer's adversarial loss; StyleGAN2's by default (paper section 3.3).

Residual blocks with blur, equalised learning rate and minibatch standard deviation: Karras et al. 2020, 'Analyzing and
Improving the Image Quality of StyleGAN'.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vim_core.config import DiscriminatorConfig
from vim_core.errors import ConfigError
from vim_core.layers.discriminator import (
    GAIN,
    LEAKY_SLOPE,
    Blur,
    EqualConv,
    EqualLinear,
    NormalLayer,
    scaled_leaky_relu,
)

GROUPS = 32


class PatchConv(NormalLayer):
    """4x4 convolution, optional group norm, leaky ReLU unless it is the last layer."""

    deviation = 0.02

    def __init__(self, inputs: int, outputs: int, stride: int, norm: bool, spectral: bool, last: bool = False) -> None:
        super().__init__((outputs, inputs, 4, 4), not norm, spectral)
        # Not pix2pix's batch norm: logits would depend on how workers share a batch, and a batch with NaN would stay
        # in its running averages.
        self.norm = nn.GroupNorm(math.gcd(GROUPS, outputs), outputs) if norm else None
        self.stride = stride
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H', W']: H' is H / 2 for stride 2, H - 1 for stride 1."""
        x = F.conv2d(x, self.effective_weight(), self.bias, stride=self.stride, padding=1)
        x = x if self.norm is None else self.norm(x)
        return x if self.last else F.leaky_relu(x, LEAKY_SLOPE)


class PatchDiscriminator(nn.Module):
    """Images [B, 3, S, S] in [0, 1] to logits [B, P, P], one for every patch of 70x70 pixels at three halvings.

    Widths double from an eighth of `channels` up to `channels`, as in pix2pix (64 to 512).

    Raises:
        ConfigError: the halvings leave less than 3 pixels a side, or `channels` is not divisible by 8.
    """

    draw_order = nn.Module.modules

    def __init__(self, config: DiscriminatorConfig, image_size: int) -> None:
        super().__init__()
        layers, spectral = config.patch_layers, config.spectral_norm
        if image_size >> layers < 3:
            raise ConfigError(
                f"quantize.discriminator.patch_layers={layers}: leaves {image_size >> layers} of {image_size} pixels a "
                "side, at least 3 are needed"
            )
        if config.channels % 8:
            raise ConfigError(f"quantize.discriminator.channels={config.channels}: must be divisible by 8 for patch")
        widths = [config.channels * min(2**level, 8) // 8 for level in range(layers + 1)]
        # Group norm would undo the scale of spectral norm.
        norm = not spectral
        blocks = [PatchConv(3, widths[0], 2, False, spectral)]
        blocks += [PatchConv(a, b, 2, norm, spectral) for a, b in pairwise(widths[:-1])]
        blocks += [PatchConv(widths[-2], widths[-1], 1, norm, spectral)]
        blocks += [PatchConv(widths[-1], 1, 1, False, spectral, last=True)]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> logits [B, P, P] in fp32, P = S / 2^layers - 2."""
        return self.blocks(images * 2 - 1).squeeze(1).float()  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """Downsample by two: conv, blur, strided conv beside a skip of strided blur and 1x1 conv."""

    def __init__(self, inputs: int, outputs: int, spectral: bool = False) -> None:
        super().__init__()
        self.conv1 = EqualConv(inputs, inputs, 3, spectral=spectral)
        self.blur2 = Blur((2, 2))
        self.conv2 = EqualConv(inputs, outputs, 3, stride=2, spectral=spectral)
        self.blur_skip = Blur((1, 1), stride=2)
        self.skip = EqualConv(inputs, outputs, 1, bias=False, spectral=spectral)

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

    draw_order = nn.Module.modules

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

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> logits [B] in fp32."""
        x = scaled_leaky_relu(self.from_rgb(images * 2 - 1))  # [B, C, S, S]
        for block in self.blocks:
            x = block(x)  # half the side each, down to [B, C, 4, 4]
        x = scaled_leaky_relu(self.conv(minibatch_stddev(x, self.group)))  # [B, C, 4, 4]
        x = scaled_leaky_relu(self.hidden(x.flatten(1)))  # [B, C]
        return self.out(x).squeeze(1).float()  # type: ignore[no-any-return]


Discriminator = StyleGANDiscriminator | PatchDiscriminator
"""Either kind of `discriminator.kind`."""


def make_discriminator(config: DiscriminatorConfig, image_size: int) -> Discriminator:
    """The discriminator of `discriminator.kind` for images of this side.

    Raises:
        ConfigError: it does not take images of this size.
    """
    return (PatchDiscriminator if config.kind == "patch" else StyleGANDiscriminator)(config, image_size)
