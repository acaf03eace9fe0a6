"""Any classification network of torchvision, by its name there, as a feature network."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from vim_core.data.images import Pixels, square
from vim_core.errors import ConfigError
from vim_core.features.base import Features, crop_description

PREFIX = 8
"""Hex digits of the hash in the name of a published torchvision file."""


class TorchvisionExtractor:
    """What goes into a network's last layer (its mean over space, where it has any) and what comes out.

    Preprocessing is that of the published weights with this hash, of the network's default ones for any others.
    """

    published = False
    spatial = 0

    def __init__(
        self, name: str, state: dict[str, Tensor], digest: str, image_size: int = 0, device: str = "cpu"
    ) -> None:
        """Raises `RuntimeError` for weights of another network."""
        network = build(name)
        network.load_state_dict(state, strict=True)
        self.network = network.to(device).eval()
        self.name, self.digest, self.image_size, self.device = name, digest, image_size, device
        self.last, self.dim, self.classes = last_layer(network)
        self.transform = transform_of(name, digest)
        self.size = int(self.transform.crop_size[0])
        self.preprocessing = crop_description(image_size) + " ".join(repr(self.transform).split())

    def prepare(self, image: Pixels) -> Tensor:
        """As torchvision prepares a picture of Pillow's for this network."""
        from PIL import Image

        pixels = square(image, self.image_size) if self.image_size else image
        prepared: Tensor = self.transform(Image.fromarray(pixels))
        return prepared

    def extract(self, batch: Tensor) -> Features:
        """Features [N, D] and logits [N, C] in float32."""
        caught: list[Tensor] = []
        handle = self.last.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
        try:
            with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                logits = self.network(batch.to(self.device))
        finally:
            handle.remove()
        features = caught[-1].flatten(2).mean(dim=2) if caught[-1].ndim == 4 else caught[-1]
        return Features(features.float().cpu(), logits.float().cpu())


def build(name: str) -> nn.Module:
    """An untrained network. Raises `ConfigError` naming the nearest for a name that torchvision does not know."""
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean torchvision:{nearest[0]}?" if nearest else f"there are {', '.join(known)}"
        raise ConfigError(f"statistics.network='torchvision:{name}': torchvision has no such classifier; {hint}")
    # these two draw their weights slowly unless told not to
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return network


def last_layer(network: nn.Module) -> tuple[nn.Module, int, int]:
    """The last layer that has weights, the channels it takes and gives."""
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
