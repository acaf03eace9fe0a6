"""The interface of a feature network, and the specification that names one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vim_core.data.images import Pixels

CLASSIFIER = "classifier"
INCEPTION = "inception"
TORCHVISION = "torchvision:"


@dataclass(frozen=True)
class FeatureSpec:
    """A feature network and its weight files; small, so that workers receive it and load the network themselves.

    Attributes:
        network: 'classifier', 'inception' or 'torchvision:<name>'.
        weights, config: path or URI of the network's files.
        sha256: hash that the weights must have, or its first digits.
        image_size: side of the centre square that images are brought to first; 0 for none beyond what the network
            does itself.
        device: where the network runs.
    """

    network: str
    weights: str
    config: str = ""
    sha256: str = ""
    image_size: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Features:
    """Outputs of a network for N images: `features` [N, D] and `logits` [N, C], float32 on the CPU.

    `spatial` [N, S] are the features of sFID, of networks that have them.
    """

    features: Tensor
    logits: Tensor
    spatial: Tensor | None = None


class FeatureExtractor(Protocol):
    """A feature network with its preprocessing.

    Attributes:
        name: as in the names of figures, such as fd_<name>.
        dim: dimension D of the features.
        classes: number C of the logits.
        spatial: dimension S of the spatial features of sFID, 0 for none.
        preprocessing: from decoded pixels to the network's input, in words.
        size: pixels a side of the network's input.
        digest: sha256 of the weights.
        published: whether they are the weights that FID and Inception Score are defined on.
    """

    name: str
    dim: int
    classes: int
    spatial: int
    preprocessing: str
    size: int
    digest: str
    published: bool

    def prepare(self, image: Pixels) -> Tensor:
        """One decoded image uint8 [H, W, 3] as the network's input [3, size, size] on the CPU."""
        ...

    def extract(self, batch: Tensor) -> Features:
        """Features and logits of prepared images [N, 3, size, size]."""
        ...


def extract_images(extractor: FeatureExtractor, images: Sequence[Pixels]) -> Features:
    """Features and logits of decoded images, uint8 [H, W, 3] each."""
    return extractor.extract(torch.stack([extractor.prepare(image) for image in images]))


def crop_description(image_size: int) -> str:
    """The crop to `image_size` before a network's own preprocessing, in words; empty for 0."""
    if not image_size:
        return ""
    return f"short side to {image_size} pixels (bicubic, antialiased), centre crop, 8 bits; then "
