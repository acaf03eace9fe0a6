"""Layers of the discriminators: equalised learning rate, spectral norm, blur."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAKY_SLOPE = 0.2
GAIN = math.sqrt(2.0)


def scaled_leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU with the gain that keeps the variance."""
    return F.leaky_relu(x, LEAKY_SLOPE) * GAIN


class SpectralNorm(nn.Module):
    """Divides a weight by its largest singular value, found by power iteration (Miyato et al. 2018).

    The singular vectors are buffers. They change only in `advance`, so that the generator's pass through the
    discriminator has no side effect: torch's own parametrization changes them in every forward pass of training.
    """

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        for name, length in zip(("left", "right"), weight.detach().flatten(1).shape, strict=True):
            self.register_buffer(name, torch.empty(length))
        self.draw(weight)

    @torch.no_grad()
    def draw(self, weight: Tensor, warmup: int = 15) -> None:
        """Draw both vectors and iterate `warmup` times at a weight on the CPU; does nothing on the meta device."""
        if weight.is_meta:
            return
        left, right = (F.normalize(torch.randn(len(vector)), dim=0) for vector in (self.left, self.right))
        for _ in range(warmup):
            left, right = _power_iteration(weight, right)
        self.left.copy_(left)
        self.right.copy_(right)

    @torch.no_grad()
    def advance(self, weight: Tensor) -> None:
        """One power iteration at the present weight [outputs, ...]."""
        left, right = _power_iteration(weight, self.right)
        self.left.copy_(left)
        self.right.copy_(right)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight over its largest singular value; gradients flow through both."""
        # Copies, because `advance` may run before the backward pass of this one.
        left, right = self.left.clone(), self.right.clone()
        with torch.autocast(weight.device.type, enabled=False):
            return weight / torch.dot(left, torch.mv(weight.flatten(1), right))


def _power_iteration(weight: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Left and right singular vector after one power iteration from the right one."""
    matrix = weight.detach().flatten(1)  # [outputs, inputs]
    left = F.normalize(matrix @ right, dim=0)  # [outputs]
    return left, F.normalize(matrix.T @ left, dim=0)


class NormalLayer(nn.Module):
    """A layer whose weight [outputs, ...] is drawn from a normal distribution and may be under spectral norm."""

    deviation = 1.0

    def __init__(self, shape: tuple[int, ...], bias: bool, spectral: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(shape[0])) if bias else None
        self.spectral: SpectralNorm | None = None
        self.reset_parameters()
        self.spectral = SpectralNorm(self.weight) if spectral else None

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the weight, then the singular vectors; does nothing on the meta device."""
        if self.weight.is_meta:
            return
        self.weight.normal_().mul_(self.deviation)
        if self.bias is not None:
            self.bias.zero_()
        if self.spectral is not None:
            self.spectral.draw(self.weight)

    def effective_weight(self) -> Tensor:
        """The weight over its largest singular value, or as it is."""
        return self.weight if self.spectral is None else self.spectral(self.weight)


class EqualizedLayer(NormalLayer):
    """A layer whose weight is scaled at run time by its fan-in, unless spectral norm does it, where this would cancel.

    Weights are stored at unit variance, so that all layers learn at the same rate (Karras et al. 2018, section 4.1).
    """

    def effective_weight(self) -> Tensor:
        """The scaled or normalised weight."""
        if self.spectral is not None:
            return super().effective_weight()
        return self.weight * (1 / math.sqrt(math.prod(self.weight.shape[1:])))


class EqualConv(EqualizedLayer):
    """Convolution with equalised learning rate."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = True, spectral: bool = False
    ) -> None:
        super().__init__((outputs, inputs, kernel, kernel), bias, spectral)
        self.stride = stride
        self.padding = kernel // 2 if stride == 1 else 0

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H', W']."""
        return F.conv2d(x, self.effective_weight(), self.bias, stride=self.stride, padding=self.padding)


class EqualLinear(EqualizedLayer):
    """Linear layer with equalised learning rate."""

    def __init__(self, inputs: int, outputs: int, spectral: bool = False) -> None:
        super().__init__((outputs, inputs), True, spectral)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs] -> [B, outputs]."""
        return F.linear(x, self.effective_weight(), self.bias)


class Blur(nn.Module):
    """The [1, 3, 3, 1] filter before every downsampling; a stride computes only the pixels that are kept."""

    kernel: Tensor

    def __init__(self, pad: tuple[int, int], stride: int = 1) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.empty(4, 4), persistent=False)
        self.fill_buffers()
        self.pad = pad
        self.stride = stride

    def fill_buffers(self) -> None:
        """Compute the filter; does nothing on the meta device."""
        if not self.kernel.is_meta:
            taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
            kernel = taps[:, None] * taps[None]
            self.kernel.copy_(kernel / kernel.sum())

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H', W'], H' = (H + pad - 4) // stride + 1 for the sum of both pads."""
        if self.stride > 1 and x.dtype is torch.bfloat16 and x.device.type == "cpu":
            # oneDNN's backward pass of a strided depthwise convolution is 10 to 20 times slower in bf16.
            with torch.autocast("cpu", enabled=False):
                return self._filter(x.float()).bfloat16()
        return self._filter(x)

    def _filter(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        x = F.pad(x, (*self.pad, *self.pad))
        return F.conv2d(x, self.kernel.to(x.dtype).expand(channels, 1, 4, 4), stride=self.stride, groups=channels)


def advance_spectral(network: nn.Module) -> None:
    """One power iteration in every layer under spectral norm: once per step of the network's own optimizer."""
    for layer in network.modules():
        spectral = getattr(layer, "spectral", None)
        if isinstance(spectral, SpectralNorm):
            spectral.advance(layer.weight)  # type: ignore[arg-type]
