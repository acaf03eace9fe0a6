"""The Inception network of FID and Inception Score: Szegedy et al. 2015 as TensorFlow's 2015-12-05 graph computes it.

Tensor names are those of the published PyTorch conversion (torch-fidelity, pytorch-fid), so its file loads as it is.
It departs from torchvision's Inception-v3 where that graph does: averages leave out the padding, the last block pools
by the maximum, and there are 1008 classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vim_core.data.images import Pixels, center_crop
from vim_core.distributed.products import strict
from vim_core.features.base import INCEPTION, Features, crop_description
from vim_core.weights.saving import WeightFile

PUBLISHED = WeightFile(
    "weights-inception-2015-12-05-6726825d.pth",
    "6726825d",
    "network of FID (torch-fidelity's conversion of TensorFlow's Inception of 2015-12-05)",
)
SIZE = 299
FEATURES = 2048
CLASSES = 1008
SPATIAL = 7
"""Channels of the spatial features of sFID (Nash et al. 2021): 7 x 17 x 17 = 2023."""

SPATIAL_SIDE = 17
"""Side of the feature map that they come from."""


@dataclass(frozen=True)
class Layer:
    """One convolution with its normalization: name, channels, kernel; stride 2 has no padding, stride 1 keeps sizes."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


Fork = tuple[Layer, Layer]
"""Two parallel layers on one input; their channels are concatenated."""


@dataclass(frozen=True)
class Branch:
    """A sequence of layers after a pooling ('mean', 'max', 'halve') or none; a fork may end it."""

    layers: Sequence[Layer | Fork]
    pool: str = ""


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False),
    "max": lambda x: F.max_pool2d(x, 3, stride=1, padding=1),
    "halve": lambda x: F.max_pool2d(x, 3, stride=2),
    "": lambda x: x,
}
ROW, COLUMN = (1, 7), (7, 1)
SQUARE, FIVE = (3, 3), (5, 5)


def _blocks_at_35(pooled: int) -> list[Branch]:
    """Blocks at 35 x 35."""
    return [
        Branch([Layer("branch1x1", 64)]),
        Branch([Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, FIVE)]),
        Branch([Layer("branch3x3dbl_1", 64), Layer("branch3x3dbl_2", 96, SQUARE), Layer("branch3x3dbl_3", 96, SQUARE)]),
        Branch([Layer("branch_pool", pooled)], "mean"),
    ]


def _blocks_at_17(narrow: int) -> list[Branch]:
    """Blocks at 17 x 17."""
    double = [Layer(f"branch7x7dbl_{n}", narrow, (ROW, COLUMN)[n % 2 == 0]) for n in (2, 3, 4)]
    return [
        Branch([Layer("branch1x1", 192)]),
        Branch([Layer("branch7x7_1", narrow), Layer("branch7x7_2", narrow, ROW), Layer("branch7x7_3", 192, COLUMN)]),
        Branch([Layer("branch7x7dbl_1", narrow), *double, Layer("branch7x7dbl_5", 192, ROW)]),
        Branch([Layer("branch_pool", 192)], "mean"),
    ]


def _blocks_at_8(pool: str) -> list[Branch]:
    """Blocks at 8 x 8."""

    def fork(name: str) -> Fork:
        return Layer(f"{name}a", 384, (1, 3)), Layer(f"{name}b", 384, (3, 1))

    return [
        Branch([Layer("branch1x1", 320)]),
        Branch([Layer("branch3x3_1", 384), fork("branch3x3_2")]),
        Branch([Layer("branch3x3dbl_1", 448), Layer("branch3x3dbl_2", 384, SQUARE), fork("branch3x3dbl_3")]),
        Branch([Layer("branch_pool", 192)], pool),
    ]


TO_MIDDLE = [
    Branch([Layer("branch3x3", 384, SQUARE, 2)]),
    Branch([Layer("branch3x3dbl_1", 64), Layer("branch3x3dbl_2", 96, SQUARE), Layer("branch3x3dbl_3", 96, SQUARE, 2)]),
    Branch([], "halve"),
]
TO_COARSE = [
    Branch([Layer("branch3x3_1", 192), Layer("branch3x3_2", 320, SQUARE, 2)]),
    Branch(
        [
            Layer("branch7x7x3_1", 192),
            Layer("branch7x7x3_2", 192, ROW),
            Layer("branch7x7x3_3", 192, COLUMN),
            Layer("branch7x7x3_4", 192, SQUARE, 2),
        ]
    ),
    Branch([], "halve"),
]


class Convolution(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], stride: int, padded: bool) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H', W']."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """Parallel branches whose channels are concatenated."""

    def __init__(self, inputs: int, branches: list[Branch]) -> None:
        super().__init__()
        self.branches = branches
        self.channels = 0
        for branch in branches:
            channels = inputs
            for entry in branch.layers:
                parallel = entry if isinstance(entry, tuple) else (entry,)
                for layer in parallel:
                    module = Convolution(channels, layer.channels, layer.kernel, layer.stride, layer.stride == 1)
                    self.add_module(layer.name, module)
                channels = sum(layer.channels for layer in parallel)
            self.channels += channels

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, channels, H', W']."""
        outputs = []
        for branch in self.branches:
            y = POOLS[branch.pool](x)
            for entry in branch.layers:
                parallel = entry if isinstance(entry, tuple) else (entry,)
                y = torch.cat([self.get_submodule(layer.name)(y) for layer in parallel], dim=1)
            outputs.append(y)
        return torch.cat(outputs, dim=1)


class Inception(nn.Module):
    """The network on images [N, 3, 299, 299] in [-1, 1], for inference."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, SQUARE, 2, padded=False)
        self.Conv2d_2a_3x3 = Convolution(32, 32, SQUARE, 1, padded=False)
        self.Conv2d_2b_3x3 = Convolution(32, 64, SQUARE, 1, padded=True)
        self.Conv2d_3b_1x1 = Convolution(64, 80, (1, 1), 1, padded=False)
        self.Conv2d_4a_3x3 = Convolution(80, 192, SQUARE, 1, padded=False)
        blocks = {"5b": _blocks_at_35(32), "5c": _blocks_at_35(64), "5d": _blocks_at_35(64), "6a": TO_MIDDLE}
        blocks |= {
            "6b": _blocks_at_17(128),
            "6c": _blocks_at_17(160),
            "6d": _blocks_at_17(160),
            "6e": _blocks_at_17(192),
        }
        blocks |= {"7a": TO_COARSE, "7b": _blocks_at_8("mean"), "7c": _blocks_at_8("max")}
        channels = 192
        for name, branches in blocks.items():
            block = Mixed(channels, branches)
            self.add_module(f"Mixed_{name}", block)
            channels = block.channels
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Features and logits by torch-fidelity's names.

        '64', '192', '768' and '2048' are means over space [N, name], 'logits_unbiased' and 'logits' [N, 1008] are
        without and with the last bias, 'spatial' [N, 2023] is sFID's.
        """
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        outputs = {"64": x.mean(dim=(2, 3))}
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, stride=2)
        outputs["192"] = x.mean(dim=(2, 3))
        x = self._through(x, ("5b", "5c", "5d", "6a", "6b", "6c"))
        spatial = self.get_submodule("Mixed_6d.branch1x1")(x)[:, :SPATIAL]
        outputs["spatial"] = spatial.permute(0, 2, 3, 1).flatten(1)
        x = self._through(x, ("6d", "6e"))
        outputs["768"] = x.mean(dim=(2, 3))
        outputs["2048"] = self._through(x, ("7a", "7b", "7c")).mean(dim=(2, 3))
        outputs["logits_unbiased"] = F.linear(outputs["2048"], self.fc.weight)
        outputs["logits"] = outputs["logits_unbiased"] + self.fc.bias
        return outputs

    def _through(self, x: Tensor, names: tuple[str, ...]) -> Tensor:
        for name in names:
            x = self.get_submodule(f"Mixed_{name}")(x)
        return x


class InceptionExtractor:
    """pool_3 features [N, 2048], logits without the last bias [N, 1008] and sFID's features [N, 2023]."""

    name = INCEPTION
    dim, classes, size = FEATURES, CLASSES, SIZE
    spatial = SPATIAL * SPATIAL_SIDE * SPATIAL_SIDE

    def __init__(self, state: dict[str, Tensor], digest: str, image_size: int = 0, device: str = "cpu") -> None:
        """Raises `RuntimeError` for weights of another network."""
        network = Inception()
        counters = {name: value for name, value in network.state_dict().items() if name.endswith("batches_tracked")}
        network.load_state_dict(counters | state, strict=True)
        self.network = network.to(device).eval()
        self.digest, self.image_size, self.device = digest, image_size, device
        self.published = digest.startswith(PUBLISHED.sha256)
        protocol = f"TensorFlow 1 bilinear to {SIZE} x {SIZE}, no antialias; (x - 128) / 128"
        self.preprocessing = crop_description(image_size) + protocol

    def prepare(self, image: Pixels) -> Tensor:
        """The image at 299 x 299 by TensorFlow 1's resize, in [-1, 1]; a square of `image_size` before, if set."""
        if self.image_size:
            image = center_crop(image, self.image_size)
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1).float()
        return (tf1_bilinear(pixels, SIZE) - 128) / 128

    @strict
    def extract(self, batch: Tensor) -> Features:
        """Features [N, 2048], logits [N, 1008] and spatial features [N, 2023] in float32, without TF32.

        TF32 would change them by a thousandth.
        """
        inputs = batch.to(self.device)
        with torch.inference_mode():
            outputs = self.network(inputs)
        return Features(outputs["2048"].cpu(), outputs["logits_unbiased"].cpu(), outputs["spatial"].cpu())


def tf1_bilinear(images: Tensor, size: int) -> Tensor:
    """Float images [..., H, W] at `size` x `size` as `tf.image.resize_bilinear(align_corners=False)` of TensorFlow 1.

    Output pixel i samples the input at i * (H / size), not at pixel centres, without antialias; positions and weights
    are float32 as in TensorFlow's kernel, so that the result is the same to the bit on a CPU.
    """
    low, high, weight = _positions(images.shape[-1], size, images)
    left, right = images[..., low], images[..., high]
    rows = left + (right - left) * weight
    low, high, weight = _positions(images.shape[-2], size, images)
    top, bottom = rows[..., low, :], rows[..., high, :]
    return top + (bottom - top) * weight[:, None]


def _positions(length: int, size: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each output position [size]: the input positions before and after it, and the weight of the latter."""
    scale = torch.tensor(length / size, dtype=torch.float32, device=like.device)
    position = torch.arange(size, dtype=torch.float32, device=like.device) * scale
    low = position.long()
    return low, (low + 1).clamp_max(length - 1), (position - low).to(like.dtype)
