"""The part of a tokenizer that determines its codes: its digest, and stage 1 initialised from it, optionally frozen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from operator import attrgetter

import torch
from torch.distributed.tensor import DTensor

from vim_core.config import QuantizeConfig
from vim_core.distributed.fsdp import local, rows_here
from vim_core.errors import ConfigError, DataError
from vim_core.models.vit_vqgan import ViTVQGAN
from vim_core.storage import io
from vim_core.storage.tensor_files import TensorFile
from vim_core.weights.saving import read_config

DECODER_PARTS = ("from_code", "decoder", "decoder_head")
"""Modules after the codebook; all others determine the codes."""
CODE_SETTINGS = ("image_size", "patch", "positions", "encoder", "codebook.codes", "codebook.dim", "codebook.l2", "tanh")
"""Settings on which the codes depend besides the weights."""
LATER_DEFAULTS = {"tanh": "head"}
"""Settings added after digests existed, with the values that are left out of digests."""
USAGE = "codebook.usage"
"""Usage counts of the training, which do not affect the codes."""


def is_decoder_tensor(name: str) -> bool:
    """True for a tensor of the decoder's side."""
    return name.split(".", 1)[0] in DECODER_PARTS


def encoder_digest(weights_uri: str, config_uri: str) -> str:
    """sha256 of encoder, codebook, their settings and the encode batch.

    The weights are read one tensor after another.

    Raises:
        DataError: the config is missing or damaged, or of another kind of model.
        FileNotFoundError: there are no weights.
    """
    from safetensors import safe_open

    config = read_config(config_uri, "vit_vqgan", "quantize", QuantizeConfig)
    # Another encode batch may round differently (contract 7).
    values = {key: attrgetter(key)(config) for key in (*CODE_SETTINGS, "encode_batch")}
    settings = {key: value for key, value in values.items() if LATER_DEFAULTS.get(key, ...) != value}
    settings |= {"encoder": asdict(config.encoder)}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    with io.local_copy(weights_uri) as path:
        with safe_open(path, framework="np") as file:
            names = sorted(name for name in file.keys() if not is_decoder_tensor(name) and name != USAGE)  # noqa: SIM118
        for name in names:
            value = TensorFile(path).rows(name)
            digest.update(f"\n{name} {value.dtype} {list(value.shape)}\n".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class PretrainedTokenizer:
    """The two files of a trained tokenizer by address and sha256, and the digest of both."""

    weights: str
    weights_sha256: str
    config: str
    config_sha256: str
    digest: str


def load_pretrained(model: ViTVQGAN, config: QuantizeConfig, source: PretrainedTokenizer | None) -> None:
    """Load encoder and codebook, with `init_decoder: load` the decoder; with `freeze_encoder` freeze the first two.

    Raises:
        ConfigError: there is no source for `init_from`, or it has other settings.
        DataError: a file is missing, was changed since it was hashed, or does not fit.
    """
    from safetensors import SafetensorError

    if not config.init_from:
        return
    if source is None:
        raise ConfigError(f"quantize.init_from={config.init_from!r}: the task was given no tokenizer to start from")
    with _verified(source.config, source.config_sha256):
        own = read_config(source.config, "vit_vqgan", "quantize", QuantizeConfig)
    keys = [*CODE_SETTINGS]
    # Codes are computed in padded batches: another batch size may round differently (contract 7).
    keys += ["encode_batch"] if config.freeze_encoder else []
    keys += ["decoder"] if config.init_decoder == "load" else []
    for key in keys:
        value, expected = map(attrgetter(key), (config, own))
        if value != expected:
            raise ConfigError(
                f"quantize.{key}={value!r}: the tokenizer of quantize.init_from has {expected!r}; use the same"
            )
    if config.init_decoder == "load" and (config.loss.logit_laplace > 0) != (own.loss.logit_laplace > 0):
        raise ConfigError(
            f"quantize.loss.logit_laplace={config.loss.logit_laplace!r}: the tokenizer of quantize.init_from has "
            f"{own.loss.logit_laplace!r}, so its decoder another number of channels; use quantize.init_decoder=fresh"
        )
    with _verified(source.weights, source.weights_sha256) as path:
        try:
            _load(model, path, config.init_decoder == "load", source.weights)
        except SafetensorError as error:
            raise DataError(f"{source.weights}: not a whole safetensors file ({error})") from None
    if config.freeze_encoder:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(is_decoder_tensor(name))


@contextmanager
def _verified(uri: str, sha256: str) -> Iterator[str]:
    """A local path of the file, valid inside the block. Raises `DataError` where its sha256 differs."""
    with ExitStack() as stack:
        try:
            path = stack.enter_context(io.local_copy(uri))
        except FileNotFoundError:
            raise DataError(f"quantize.init_from: {uri} is gone") from None
        actual = io.checksum(path)[1]
        if actual != sha256:
            rule = f"has sha256 {actual[:12]}…, expected {sha256[:12]}…: it was changed"
            raise DataError(f"quantize.init_from: {uri} {rule}")
        yield path


def _load(model: ViTVQGAN, path: str, decoder: bool, uri: str) -> None:
    """Load one tensor at a time, of each the rows that this worker holds: memory may not suffice for all of them."""
    from safetensors import safe_open

    # numpy's view of the file, because torch's maps the whole file as one storage.
    with safe_open(path, framework="np") as header:
        shapes = {name: tuple(header.get_slice(name).get_shape()) for name in header.keys()}  # noqa: SIM118
    saved = {name: shape for name, shape in shapes.items() if decoder or not is_decoder_tensor(name)}
    targets = {name: value for name, value in model.state_dict().items() if decoder or not is_decoder_tensor(name)}
    mismatches = sorted(saved.keys() ^ targets.keys())
    mismatches += sorted(name for name in saved.keys() & targets.keys() if saved[name] != tuple(targets[name].shape))
    if mismatches:
        raise DataError(f"{uri} does not fit the tokenizer of these settings: {', '.join(mismatches[:8])}")
    file = TensorFile(path)
    with torch.no_grad():
        for name, target in targets.items():
            rows = rows_here(target) if isinstance(target, DTensor) else ()
            local(target).copy_(file.rows(name, *rows))
