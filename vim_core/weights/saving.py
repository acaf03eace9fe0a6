"""Weight files: safetensors with settings as JSON, and published files checked by their hash; no pickle."""

from __future__ import annotations

import hashlib
import io as stdio
import json
import pickle
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from vim_core.config.decode import decode
from vim_core.errors import ConfigError, DataError
from vim_core.models.meta import allocate, copy_into
from vim_core.storage import io

T = TypeVar("T")


def read_config(uri: str, kind: str, key: str, cls: type[T]) -> T:
    """Settings of a saved model, the record's entry `key`; a setting newer than the file has its default.

    Raises:
        DataError: the file is missing or damaged, describes another kind of model, or has other settings.
    """
    try:
        record = json.loads(io.read_bytes(uri))
    except FileNotFoundError:
        raise DataError(f"{uri}: no such file; a model is its weights and the config.json beside them") from None
    except ValueError as error:
        raise DataError(f"{uri}: not JSON ({error})") from None
    if not isinstance(record, dict) or record.get("kind") != kind:
        described = record.get("kind") if isinstance(record, dict) else record
        raise DataError(f"{uri} describes a {described!r} model, expected {kind!r}")
    return decode(cls, record.get(key), uri, key=key, error=DataError)


def to_bytes(module: nn.Module) -> bytes:
    """All persistent tensors of a module as safetensors bytes, contiguous and on the CPU."""
    from safetensors.torch import save

    return save({name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()})


def load_into(module: nn.Module, uri: str) -> None:
    """Load a safetensors file strictly: every name and shape must match.

    Raises:
        DataError: the file is missing or damaged, or a tensor is missing, unknown or of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        module.load_state_dict(load(io.read_bytes(uri)), strict=True)
    except FileNotFoundError:
        raise DataError(f"{uri}: no such weight file") from None
    except SafetensorError as error:
        raise DataError(f"{uri}: not a whole safetensors file ({error})") from None
    except RuntimeError as error:
        raise DataError(f"{uri} does not fit {type(module).__name__}: {error}") from None


def allocate_and_load(
    module: nn.Module, uri: str, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> None:
    """Allocate a network that is on the meta device and load saved tensors strictly, one after another.

    The file is memory-mapped again for each tensor, so that besides the network only one of its tensors is in memory.
    A network sharded by FSDP2 or `distribute_tensor` gets this rank's shard of each tensor.

    Args:
        module: the network; it has what `vim_core.models.meta` needs.
        uri: safetensors file; a remote one is downloaded once, to a temporary file.
        device: of the tensors.
        dtype: of the network's floating-point tensors; by default the file's type must be the network's.

    Raises:
        DataError: the file is missing or damaged, or a tensor is missing, unknown, of another shape or another type.
    """
    from safetensors import SafetensorError, safe_open

    if dtype is not None:
        module.to(dtype)
    try:
        with io.local_copy(uri) as path:
            _check_file(module, path, uri, converts=dtype is not None)
            allocate(module, device)
            for name, target in module.state_dict().items():
                with safe_open(path, framework="pt") as file:
                    copy_into(target, file.get_tensor(name))
    except FileNotFoundError:
        raise DataError(f"{uri}: no such weight file") from None
    except SafetensorError as error:
        raise DataError(f"{uri}: not a whole safetensors file ({error})") from None


def _check_file(module: nn.Module, path: str, uri: str, converts: bool) -> None:
    """Compare names, shapes and (unless `converts`) types of a file and a network. Raises `DataError`."""
    from safetensors import safe_open

    expected = {name: _description(value, converts) for name, value in module.state_dict().items()}
    with safe_open(path, framework="pt") as file:
        found = {name: _description(file.get_tensor(name), converts) for name in file.keys()}  # noqa: SIM118
    odd = [f"{name} is missing" for name in expected.keys() - found.keys()]
    odd += [f"{name} is unknown" for name in found.keys() - expected.keys()]
    odd += [
        f"{name} is {found[name]}, expected {expected[name]}"
        for name in expected.keys() & found.keys()
        if expected[name] != found[name]
    ]
    if odd:
        raise DataError(f"{uri} does not fit {type(module).__name__}: {'; '.join(sorted(odd)[:8])}")


def _description(value: Tensor, converts: bool) -> str:
    kind = "floating-point" if converts and value.is_floating_point() else str(value.dtype).removeprefix("torch.")
    return f"{kind} {list(value.shape)}"


@dataclass(frozen=True)
class WeightFile:
    """A published weight file; `sha256` may be a prefix, as torchvision's file names carry one."""

    name: str
    sha256: str
    purpose: str


VGG16 = WeightFile("vgg16-397923af.pth", "397923af", "backbone of the perceptual loss (torchvision VGG16)")


def load_verified(file: WeightFile, uri: str, key: str) -> tuple[dict[str, Tensor], str]:
    """The tensors of a published file, hash checked, and its full sha256; nothing but tensors is unpickled.

    Args:
        file: which file it must be.
        uri: where the user keeps it; a name that ends in .safetensors is read as such, any other as torch.save's.
        key: the setting that names it, for messages.

    Raises:
        ConfigError: no address was given.
        DataError: nothing lies there, its hash is not the published one, or it holds more than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    if not uri:
        raise ConfigError(f"{key} is empty: give the path or URI of {file.name}, the {file.purpose}")
    try:
        data = io.read_bytes(uri)
    except FileNotFoundError:
        raise DataError(f"{key}={uri!r}: no such file; it should be {file.name}, the {file.purpose}") from None
    sha256 = hashlib.sha256(data).hexdigest()
    if not sha256.startswith(file.sha256):
        raise DataError(f"{key}={uri!r}: sha256 is {sha256[:16]}…, {file.name} has {file.sha256}…")
    try:
        if uri.endswith(".safetensors"):
            return load(data), sha256
        state: dict[str, Tensor] = torch.load(stdio.BytesIO(data), map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise DataError(f"{key}={uri!r}: not a file of tensors alone ({str(error).splitlines()[0]})") from None
    if not isinstance(state, dict):
        raise DataError(f"{key}={uri!r}: holds a {type(state).__name__}, expected tensors by name")
    return state, sha256
