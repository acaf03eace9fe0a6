"""Published weight files: loaded from the user's address, with their hash checked."""

from __future__ import annotations

import hashlib
import io as stdio
import pickle
from dataclasses import dataclass

import torch
from torch import Tensor

from vim_core.errors import ConfigError, DataError
from vim_core.storage import io


@dataclass(frozen=True)
class WeightFile:
    """A published weight file; `sha256` may be a prefix, as torchvision's file names carry one."""

    name: str
    sha256: str
    purpose: str


VGG16 = WeightFile("vgg16-397923af.pth", "397923af", "backbone of the perceptual loss (torchvision VGG16)")


def load_weights(file: WeightFile, uri: str, key: str) -> dict[str, Tensor]:
    """The tensors of a published file, hash checked, without unpickling anything but tensors.

    Args:
        file: which file it must be.
        uri: where the user keeps it; a name that ends in .safetensors is read as such, any other as torch.save's.
        key: the setting that names it, for messages.

    Raises:
        ConfigError: no address was given.
        DataError: nothing lies there, its hash is not the published one, or it holds more than tensors.
    """
    return load_verified(file, uri, key)[0]


def load_verified(file: WeightFile, uri: str, key: str) -> tuple[dict[str, Tensor], str]:
    """The tensors as `load_weights` returns them, and the full sha256 of their file."""
    if not uri:
        raise ConfigError(f"{key} is empty: give the path or URI of {file.name}, the {file.purpose}")
    try:
        data = io.read_bytes(uri)
    except FileNotFoundError:
        raise DataError(f"{key}={uri!r}: no such file; it should be {file.name}, the {file.purpose}") from None
    sha256 = hashlib.sha256(data).hexdigest()
    if not sha256.startswith(file.sha256):
        raise DataError(f"{key}={uri!r}: sha256 is {sha256[:16]}…, {file.name} has {file.sha256}…")
    return _tensors(data, uri, key), sha256


def _tensors(data: bytes, uri: str, key: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        if uri.endswith(".safetensors"):
            return load(data)
        state: dict[str, Tensor] = torch.load(stdio.BytesIO(data), map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise DataError(f"{key}={uri!r}: not a file of tensors alone ({str(error).splitlines()[0]})") from None
    if not isinstance(state, dict):
        raise DataError(f"{key}={uri!r}: holds a {type(state).__name__}, expected tensors by name")
    return state
