"""Generated weights in the layout of published networks, where the files that a preset names are missing.

LPIPS keeps VGG16's channels: its heads are trained for them, and the package has no smaller ones.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from vim_core.config import PipelineConfig
from vim_core.features.base import TORCHVISION
from vim_core.storage import io

if TYPE_CHECKING:
    from torch import nn

VGG16 = "vgg16"


def generate(folder: str, config: PipelineConfig) -> dict[str, Any]:
    """Write weights below `folder` for every file of the preset that is missing; returns the settings that name them.

    The settings have the new file's hash, so that it is checked as the published one would be.
    """
    values: dict[str, Any] = {}
    loss, score = config.quantize.loss, config.score
    if "quantize" in config.components and loss.perceptual > 0 and _missing(loss.perceptual_weights):
        uri, sha256 = _write(folder, VGG16)
        values |= {"quantize.loss.perceptual_weights": uri, "quantize.loss.perceptual_sha256": sha256}
    if "score" in config.components and score.lpips and _missing(score.lpips_weights):
        uri, sha256 = _write(folder, VGG16)
        values |= {"score.lpips_weights": uri, "score.lpips_sha256": sha256}
    for component in ("select", "tradeoff"):
        network = getattr(config, component).network
        if component in config.components and network.name.startswith(TORCHVISION) and _missing(network.weights):
            uri, sha256 = _write(folder, network.name.removeprefix(TORCHVISION))
            classes = io.join(folder, "classes.txt")
            io.write_bytes(classes, "".join(f"n{9_000_000 + n:08d} class {n}\n" for n in range(1000)).encode())
            key = f"{component}.network"
            values |= {f"{key}.weights": uri, f"{key}.sha256": sha256, f"{key}.classes": classes}
    return values


def _missing(uri: str) -> bool:
    return bool(uri) and not io.exists(uri)


def _write(folder: str, name: str) -> tuple[str, str]:
    """Address and sha256 of drawn weights of one of torchvision's networks; of VGG16 the convolutions alone."""
    import torch
    from safetensors.torch import save
    from torchvision.models import get_model, vgg

    uri = io.join(folder, f"{name}-generated.safetensors")
    if io.exists(uri):
        return uri, io.checksum(uri)[1]
    network: nn.Module
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        if name == VGG16:
            network = torch.nn.Sequential()
            network.add_module("features", vgg.make_layers(vgg.cfgs["D"]))
        else:
            network = get_model(name, weights=None)
    data = save({key: value.detach().contiguous() for key, value in network.state_dict().items()})
    io.write_bytes(uri, data)
    return uri, hashlib.sha256(data).hexdigest()
