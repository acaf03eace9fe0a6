"""The interface of a feature network, and the few words that name one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from vim_core.data.images import Pixels

CLASSIFIER = "classifier"
INCEPTION = "inception"
TORCHVISION = "torchvision:"


@dataclass(frozen=True)
class TapSpec:
    """Which network, from where; small, so that it travels to workers instead of the network.

    `network` is 'classifier', 'inception' or 'torchvision:<name>'; `weights` and `config` are its files, `sha256` the
    hash (or its beginning) that the weights must have; `image_size` the side of the centre square that images are
    brought to first (0: none beyond what the network does itself).
    """

    network: str
    weights: str
    config: str = ""
    sha256: str = ""
    image_size: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Taken:
    """What a network says of N images: `features` [N, D] and `logits` [N, C], float32 on the CPU.

    `spatial` [N, S] are sFID's features, of networks that have any.
    """

    features: Tensor
    logits: Tensor
    spatial: Tensor | None = None


def squared_first(image_size: int) -> str:
    """What a tap says of the square it cuts out before the network's own preprocessing; nothing for 0."""
    if not image_size:
        return ""
    return f"short side to {image_size} pixels (bicubic, antialiased), centre crop, 8 bits; then "


class Tap(Protocol):
    """A feature network with its preprocessing.

    Attributes:
        name: as figures are called by it, such as fd_<name>.
        dim: dimension D of the features.
        classes: number C of the logits.
        spatial: dimension S of the spatial features of sFID, 0 for none.
        preprocessing: from decoded pixels to the network's input, in words.
        size: pixels a side of the network's input.
        digest: sha256 of the weights.
        published: whether they are the weights that the figure's own name stands for (FID, Inception Score).
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

    def take(self, batch: Tensor) -> Taken:
        """Features and logits of prepared images [N, 3, size, size]."""
        ...
