"""Perceptual loss: LPIPS on VGG16 features through the `lpips` package."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from vim_core.config import LossConfig
from vim_core.errors import ConfigError
from vim_core.weights import VGG16, WeightFile, load_weights

log = logging.getLogger(__name__)


class Perceptual:
    """Mean LPIPS distance between two batches [B, 3, H, W] in [0, 1]."""

    def __init__(self, backbone: dict[str, Tensor], device: torch.device) -> None:
        import lpips

        self.network: Any = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
        own = self.network.net.state_dict()
        # lpips keeps torchvision's layer numbers behind the name of its slice: slice2.5.weight is features.5.weight.
        own = {name: backbone["features." + name.split(".", 1)[1]] for name in own}
        self.network.net.load_state_dict(own, strict=True)
        self.network.requires_grad_(False).eval().to(device)

    @classmethod
    def create(cls, config: LossConfig, device: torch.device, file: WeightFile = VGG16) -> Perceptual | None:
        """The loss, or None where its weight is 0 or its backbone is missing and may be.

        Raises:
            ConfigError: the backbone is needed and no address was given.
            DataError: the file is missing or is another one.
        """
        if config.perceptual == 0:
            return None
        if not config.perceptual_weights and config.perceptual_optional:
            log.warning(
                "no perceptual loss: quantize.loss.perceptual_weights is empty, which perceptual_optional allows"
            )
            return None
        if not config.perceptual_weights:
            raise ConfigError(
                f"quantize.loss.perceptual={config.perceptual} needs quantize.loss.perceptual_weights (a path or URI "
                f"of {file.name}); set quantize.loss.perceptual=0 or perceptual_optional=true to train without it"
            )
        return cls(load_weights(file, config.perceptual_weights, "quantize.loss.perceptual_weights"), device)

    def __call__(self, fake: Tensor, real: Tensor) -> Tensor:
        """Scalar distance; gradients flow into `fake`."""
        return self.network(fake * 2 - 1, real * 2 - 1).mean()  # type: ignore[no-any-return]
