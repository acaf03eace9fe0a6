"""Pseudo-random weights for the network of FID: one stream of numbers a tensor, seeded by its name."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from vim_core.features.inception import Inception


def shapes() -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by name."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in Inception().state_dict().items()}


def _draw(name: str, shape: tuple[int, ...]) -> Tensor:
    """The rule by which the shared reference was made; features of these keep their scale through all layers."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.long)
    stream = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
    if name.endswith("conv.weight"):
        values = stream.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
    elif name.endswith(("bn.weight", "running_var")):
        values = stream.uniform(0.8, 1.2, shape)
    else:
        values = stream.standard_normal(shape) * (0.02 if name == "fc.weight" else 0.1)
    return torch.from_numpy(values.astype(np.float32))


def state() -> dict[str, Tensor]:
    """All tensors; about a second."""
    return {name: _draw(name, shape) for name, shape in shapes().items()}
