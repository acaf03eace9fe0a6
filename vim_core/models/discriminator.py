"""StyleGAN2's discriminator: residual blocks with blur, equalised learning rate, minibatch stddev.

Karras et al. 2020, 'Analyzing and Improving the Image Quality of StyleGAN'.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vim_core.config import DiscriminatorConfig
from vim_core.errors import ConfigError

SLOPE = 0.2
GAIN = math.sqrt(2.0)


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU with the gain that keeps the variance."""
    return F.leaky_relu(x, SLOPE) * GAIN


class EqualConv(nn.Module):
    """Convolution whose weights are stored at unit variance and scaled at run time."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = 1 / math.sqrt(inputs * kernel * kernel)
        self.stride = stride
        self.padding = kernel // 2 if stride == 1 else 0

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H', W']."""
        return F.conv2d(x, self.weight * self.scale, self.bias, stride=self.stride, padding=self.padding)


class EqualLinear(nn.Module):
    """Linear layer with equalised learning rate."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = 1 / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs] -> [B, outputs]."""
        return F.linear(x, self.weight * self.scale, self.bias)


class Blur(nn.Module):
    """The [1, 3, 3, 1] filter before every downsampling."""

    kernel: Tensor

    def __init__(self, pad: tuple[int, int]) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        kernel = taps[:, None] * taps[None]
        self.register_buffer("kernel", kernel / kernel.sum(), persistent=False)
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H + pad - 3, W + pad - 3]."""
        channels = x.shape[1]
        x = F.pad(x, (*self.pad, *self.pad))
        return F.conv2d(x, self.kernel.to(x.dtype).expand(channels, 1, 4, 4), groups=channels)


class Residual(nn.Module):
    """Downsample by two: conv, blur, strided conv beside a blurred, strided skip."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = EqualConv(inputs, inputs, 3)
        self.blur2 = Blur((2, 2))
        self.conv2 = EqualConv(inputs, outputs, 3, stride=2)
        self.blur_skip = Blur((1, 1))
        self.skip = EqualConv(inputs, outputs, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / 2, W / 2]."""
        y = activate(self.conv2(self.blur2(activate(self.conv1(x)))))
        return (y + self.skip(self.blur_skip(x))) / GAIN  # type: ignore[no-any-return]


def minibatch_stddev(x: Tensor, group: int) -> Tensor:
    """Append the mean deviation within groups of consecutive images as one more channel.

    Consecutive groups give the same values however a global batch is split over workers.

    Raises:
        ConfigError: the group does not divide the batch [B, C, H, W].
    """
    batch, _, height, width = x.shape
    if batch % group:
        raise ConfigError(f"quantize.discriminator.stddev_group={group}: does not divide a worker's batch of {batch}")
    y = x.float().reshape(batch // group, group, *x.shape[1:])
    deviation = (y.var(dim=1, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    channel = deviation.repeat_interleave(group).view(batch, 1, 1, 1).expand(batch, 1, height, width)
    return torch.cat([x, channel.to(x.dtype)], dim=1)


class Discriminator(nn.Module):
    """Images [B, 3, S, S] in [0, 1] (S a power of two, at least 8) to logits [B].

    Raises:
        ConfigError: the image size is another one.
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

        def channels(size: int) -> int:
            return min(config.base // size, config.channels)

        self.from_rgb = EqualConv(3, channels(image_size), 1)
        sizes = [2**level for level in range(levels, 2, -1)]
        self.blocks = nn.ModuleList(Residual(channels(size), channels(size // 2)) for size in sizes)
        top = channels(4)
        self.conv = EqualConv(top + 1, top, 3)
        self.hidden = EqualLinear(top * 16, top)
        self.out = EqualLinear(top, 1)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> logits [B] in fp32."""
        x = activate(self.from_rgb(images * 2 - 1))
        for block in self.blocks:
            x = block(x)
        x = activate(self.conv(minibatch_stddev(x, self.group)))
        x = activate(self.hidden(x.flatten(1)))
        return self.out(x).squeeze(1).float()  # type: ignore[no-any-return]
