"""The trained MobileNet of the test data as a selector: the interface of `vim_core/features/selectors.py`."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
"""Channels at width 1; the trained one has three quarters of them."""


def convolution(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    padding = size // 2 if stride == 1 else 0
    return nn.Conv2d(inputs, outputs, size, stride, padding, groups=groups, bias=False)


class MobileNet(nn.Module):
    """MobileNet v1 of 224x224 images, TensorFlow's padding: strided layers pad below and on the right alone."""

    size = 224
    preprocessing = "x * 2 - 1"

    def __init__(self, multiplier: float = 0.75, classes: int = 1000) -> None:
        super().__init__()
        width = int(32 * multiplier)
        self.conv1, self.conv1_bn = convolution(3, width, 3, stride=2), nn.BatchNorm2d(width, eps=1e-3)
        for number, (full, stride) in enumerate(zip(WIDTHS, STRIDES, strict=True), start=1):
            outputs = int(full * multiplier)
            self.add_module(f"conv_dw_{number}", convolution(width, width, 3, stride, groups=width))
            self.add_module(f"conv_dw_{number}_bn", nn.BatchNorm2d(width, eps=1e-3))
            self.add_module(f"conv_pw_{number}", convolution(width, outputs, 1))
            self.add_module(f"conv_pw_{number}_bn", nn.BatchNorm2d(outputs, eps=1e-3))
            width = outputs
        self.conv_preds = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, 3, 224, 224] in [0, 1]."""
        x = self._layer(images * 2 - 1, "conv1")
        for number in range(1, len(STRIDES) + 1):
            x = self._layer(self._layer(x, f"conv_dw_{number}"), f"conv_pw_{number}")
        return self.conv_preds(x.mean(dim=(2, 3), keepdim=True)).flatten(1)  # type: ignore[no-any-return]

    def _layer(self, x: Tensor, name: str) -> Tensor:
        layer = self.get_submodule(name)
        if layer.stride == (2, 2):
            x = F.pad(x, (0, 1, 0, 1))
        return F.relu6(self.get_submodule(f"{name}_bn")(layer(x)))
