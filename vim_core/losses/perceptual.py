"""Perceptual loss: LPIPS on VGG16 features through the `lpips` package."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vim_core.config import LossConfig
from vim_core.errors import ConfigError, DataError
from vim_core.weights.saving import VGG16, WeightFile, load_verified

log = logging.getLogger(__name__)


HEADS = tuple(f"lin{stage}.model.1.weight" for stage in range(5))
"""Channel weights of the five stages, trained on human judgements (Zhang et al. 2018): lpips ships them as v0.1."""


class Perceptual:
    """Mean LPIPS distance between two batches [B, 3, H, W] in [0, 1].

    Args:
        backbone: state dict of torchvision's VGG16, trained on ImageNet; the heads are those of the lpips package.

    Raises:
        DataError: the network's heads are not the trained ones, so the distance would be another one.
    """

    def __init__(self, backbone: dict[str, Tensor], device: torch.device) -> None:
        import lpips

        # A random backbone, because lpips would download one; it loads its file of heads without checking names.
        self.network: Any = lpips.LPIPS(net="vgg", lpips=True, pretrained=True, pnet_rand=True, verbose=False)
        _check_heads(self.network, Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth")
        names = self.network.net.state_dict()
        # lpips keeps torchvision's layer numbers behind the name of its slice: slice2.5.weight is features.5.weight.
        state = {name: backbone["features." + name.split(".", 1)[1]] for name in names}
        self.network.net.load_state_dict(state, strict=True)
        self.network.requires_grad_(False).eval().to(device)
        self.forward: Callable[..., Tensor] = self.network
        """The network's forward pass in training, which a runtime may compile."""

    @classmethod
    def create(cls, config: LossConfig, device: torch.device, file: WeightFile = VGG16) -> Perceptual | None:
        """The loss, or None where its weight is 0 or its backbone is missing and may be.

        Raises:
            ConfigError: the backbone is needed and no address was given.
            DataError: the file is missing or is another one.
        """
        if config.perceptual == 0:
            return None
        if not config.perceptual_weights:
            if config.perceptual_optional:
                log.warning(
                    "no perceptual loss: quantize.loss.perceptual_weights is empty, which perceptual_optional allows"
                )
                return None
            raise ConfigError(
                f"quantize.loss.perceptual={config.perceptual} needs quantize.loss.perceptual_weights (a path or URI "
                f"of {file.name}); set quantize.loss.perceptual=0 or perceptual_optional=true to train without it"
            )
        if config.perceptual_sha256:
            file = replace(file, name="quantize.loss.perceptual_sha256", sha256=config.perceptual_sha256)
        return cls(load_verified(file, config.perceptual_weights, "quantize.loss.perceptual_weights")[0], device)

    def __call__(self, fake: Tensor, real: Tensor) -> Tensor:
        """Scalar distance; gradients flow into `fake`."""
        return self.forward(fake * 2 - 1, real * 2 - 1).mean()

    @torch.no_grad()
    def per_image(self, fake: Tensor, real: Tensor) -> Tensor:
        """The distance of every pair [B], for evaluation."""
        return self.network(fake * 2 - 1, real * 2 - 1).flatten()  # type: ignore[no-any-return]


def _check_heads(network: Any, path: Path) -> None:
    """Raise `DataError` unless the network's heads are those of the file, all of them and no others."""
    if not path.is_file():
        raise DataError(f"{path}: the lpips package lacks its trained heads; install it anew")
    heads: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    state = network.state_dict()
    odd = sorted(heads.keys() ^ set(HEADS))
    odd += [name for name in HEADS if name in heads and not torch.equal(state[name], heads[name])]
    if odd:
        raise DataError(f"{path}: the trained heads of LPIPS are not those in use: {', '.join(odd)}")
