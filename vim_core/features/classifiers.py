"""Classification networks as feature extractors: the pipeline's own classifier, and torchvision's by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vim_core.data.images import Pixels, center_crop, to_tensor
from vim_core.distributed.products import strict
from vim_core.errors import ConfigError
from vim_core.features.base import CLASSIFIER, TORCHVISION, Features, crop_description
from vim_core.models.classifier import Classifier
from vim_core.text import hint

PREFIX = 8
"""Hex digits of the hash in the name of a published torchvision file."""


class ClassifierExtractor:
    """Penultimate features and logits of images brought to the classifier's size."""

    name = CLASSIFIER
    published = False
    spatial = 0

    def __init__(self, network: Classifier, digest: str, device: str = "cpu") -> None:
        self.network, self.digest, self.device = network, digest, device
        self.size = network.image_size
        self.dim, self.classes = network.shape.features, network.shape.classes
        self.preprocessing = (
            f"short side to {self.size} pixels (bicubic, antialiased), centre crop; exact sizes are left as they are"
        )

    def prepare(self, image: Pixels) -> Tensor:
        """The centre square [3, size, size] in [0, 1]."""
        return to_tensor(center_crop(image, self.size))

    @strict
    def extract(self, batch: Tensor) -> Features:
        """Features [N, D] and logits [N, C]."""
        with torch.inference_mode():
            features = self.network.features(batch.to(self.device))
            logits: Tensor = self.network.head(features)
        return Features(features.float().cpu(), logits.float().cpu())


class TorchvisionExtractor:
    """Input of a torchvision network's last layer (averaged over space, if it has any) as features, and its logits.

    Preprocessing is that of the published weights with this hash, or of the network's default weights for any other.
    """

    published = False
    spatial = 0

    def __init__(
        self, name: str, state: dict[str, Tensor], digest: str, image_size: int = 0, device: str = "cpu"
    ) -> None:
        """Raises `RuntimeError` for weights of another network."""
        network = build_torchvision(name)
        network.load_state_dict(state, strict=True)
        self.network = network.to(device).eval()
        self.name, self.digest, self.image_size, self.device = name, digest, image_size, device
        self.last, self.dim, self.classes = last_layer(network)
        self.transform = transform_of(name, digest)
        self.size = int(self.transform.crop_size[0])
        self.preprocessing = crop_description(image_size) + " ".join(repr(self.transform).split())

    def prepare(self, image: Pixels) -> Tensor:
        """The image [3, size, size] by torchvision's transform for this network."""
        from PIL import Image

        pixels = center_crop(image, self.image_size) if self.image_size else image
        prepared: Tensor = self.transform(Image.fromarray(pixels))
        return prepared

    @strict
    def extract(self, batch: Tensor) -> Features:
        """Features [N, D] and logits [N, C] in float32."""
        captured: list[Tensor] = []
        handle = self.last.register_forward_pre_hook(lambda module, inputs: captured.append(inputs[0]))
        try:
            with torch.inference_mode():
                logits = self.network(batch.to(self.device))
        finally:
            handle.remove()
        features = captured[-1].flatten(2).mean(dim=2) if captured[-1].ndim == 4 else captured[-1]
        return Features(features.float().cpu(), logits.float().cpu())


def check_torchvision(name: str, setting: str) -> None:
    """Raise `ConfigError` that names the setting, with a hint, where torchvision has no classifier of this name."""
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ConfigError(f"{setting}='{TORCHVISION}{name}': torchvision has no such classifier; {hint(name, known)}")


def build_torchvision(name: str) -> nn.Module:
    """An untrained network of torchvision."""
    import torchvision

    # these two draw their weights slowly unless told not to
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return network


def last_layer(network: nn.Module) -> tuple[nn.Module, int, int]:
    """The last layer that has weights, and its numbers of input and output channels."""
    layers = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    last = layers[-1]
    if isinstance(last, nn.Linear):
        return last, last.in_features, last.out_features
    return last, last.in_channels, last.out_channels


def transform_of(name: str, digest: str) -> Any:
    """torchvision's preprocessing for these weights of a network."""
    import torchvision

    weights = torchvision.models.get_model_weights(name)
    own = [entry for entry in weights if entry.url.rsplit("-", 1)[-1].removesuffix(".pth") == digest[:PREFIX]]
    return (own[0] if own else weights.DEFAULT).transforms()
