"""pix2pix's discriminator: strided convolutions that classify overlapping patches (Isola et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vim_core.config import DiscriminatorConfig
from vim_core.errors import ConfigError
from vim_core.layers.discriminator import LEAKY_SLOPE, SpectralNorm

GROUPS = 32


class PatchConv(nn.Module):
    """4x4 convolution, optional group norm, leaky ReLU unless it is the last layer."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: bool, spectral: bool, last: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 4, 4))
        self.bias = None if norm else nn.Parameter(torch.empty(outputs))
        # Not pix2pix's batch norm: logits would depend on how workers share a batch, and a batch with NaN would stay
        # in its running averages.
        self.norm = nn.GroupNorm(math.gcd(GROUPS, outputs), outputs) if norm else None
        self.spectral: SpectralNorm | None = None
        self.reset_parameters()
        self.spectral = SpectralNorm(self.weight) if spectral else None
        self.stride = stride
        self.last = last

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the weight, then the singular vectors; does nothing on the meta device."""
        if self.weight.is_meta:
            return
        self.weight.copy_(torch.randn_like(self.weight) * 0.02)
        if self.bias is not None:
            self.bias.zero_()
        if self.spectral is not None:
            self.spectral.draw(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H', W']: H' is H / 2 for stride 2, H - 1 for stride 1."""
        weight = self.weight if self.spectral is None else self.spectral(self.weight)
        x = F.conv2d(x, weight, self.bias, stride=self.stride, padding=1)
        x = x if self.norm is None else self.norm(x)
        return x if self.last else F.leaky_relu(x, LEAKY_SLOPE)


class PatchDiscriminator(nn.Module):
    """Images [B, 3, S, S] in [0, 1] to logits [B, P, P], one for every patch of 70x70 pixels at three halvings.

    Widths double from an eighth of `channels` up to `channels`, as in pix2pix (64 to 512).

    Raises:
        ConfigError: the halvings leave less than 3 pixels a side, or `channels` is not divisible by 8.
    """

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

    def draw_order(self) -> Iterator[nn.Module]:
        """All modules in the order in which construction draws their weights."""
        return self.modules()

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> logits [B, P, P] in fp32, P = S / 2^layers - 2."""
        return self.blocks(images * 2 - 1).squeeze(1).float()  # type: ignore[no-any-return]
