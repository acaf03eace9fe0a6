"""A small convolutional classifier: measures conditional accuracy and gives the features of fd_classifier."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from vim_core.layers.transformer import Dropout
from vim_core.weights.saving import load_into, read_config


@dataclass
class ClassifierShape:
    """Settings that rebuild the network."""

    image_size: int = 32
    classes: int = 10
    width: int = 32
    features: int = 64
    dropout: float = 0.1


def conv_bn_relu(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Classifier(nn.Module):
    """Four stages of convolutions, global mean, features, linear layer; images are [N, 3, S, S] in [0, 1]."""

    def __init__(self, shape: ClassifierShape) -> None:
        super().__init__()
        self.shape = shape
        self.image_size = shape.image_size
        widths = [shape.width, shape.width * 2, shape.width * 4]
        layers: list[nn.Module] = [conv_bn_relu(3, widths[0], stride=2)]
        for inputs, outputs in pairwise(widths):
            layers += [conv_bn_relu(inputs, inputs), conv_bn_relu(inputs, outputs, stride=2)]
        layers.append(conv_bn_relu(widths[-1], widths[-1]))
        self.trunk = nn.Sequential(*layers)
        self.project = nn.Linear(widths[-1], shape.features)
        self.dropout = Dropout(shape.dropout)
        self.head = nn.Linear(shape.features, shape.classes)

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features [N, F]."""
        x = self.trunk(images * 2 - 1).mean(dim=(2, 3))
        return F.relu(self.project(x))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes]."""
        return self.head(self.dropout(self.features(images)))  # type: ignore[no-any-return]


def model_config(shape: ClassifierShape) -> bytes:
    """The settings that rebuild the network, as JSON."""
    return json.dumps({"kind": "classifier", "shape": asdict(shape)}, indent=1, sort_keys=True).encode()


def load_classifier(weights_uri: str, config_uri: str, device: str = "cpu") -> Classifier:
    """Rebuild a trained classifier in evaluation mode; loading is strict.

    Raises:
        DataError: the files are missing or do not fit each other.
    """
    network = Classifier(read_config(config_uri, "classifier", "shape", ClassifierShape))
    load_into(network, weights_uri)
    return network.to(device).eval()
