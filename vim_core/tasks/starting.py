"""Start stage 1 from a trained tokenizer: encoder and codebook loaded strictly, frozen if asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from torch import Tensor

from vim_core import io
from vim_core.config import QuantizeConfig
from vim_core.errors import ConfigError, DataError
from vim_core.models.saving import read_config
from vim_core.models.vit_vqgan import ViTVQGAN

DECODER = ("from_code", "decoder", "decoder_head")
"""Parts behind the codebook; all others decide the codes."""
SHAPE = ("image_size", "patch", "positions", "encoder", "codebook.codes", "codebook.dim", "codebook.l2")
"""Settings that must be those of the tokenizer started from, else its weights mean something else."""


@dataclass(frozen=True)
class Source:
    """A trained tokenizer's two files by address and sha256, and the digest of both."""

    weights: str
    weights_sha256: str
    config: str
    config_sha256: str
    digest: str


def of_decoder(name: str) -> bool:
    """Whether a tensor of the network belongs to the decoder's side."""
    return name.split(".", 1)[0] in DECODER


def start(model: ViTVQGAN, config: QuantizeConfig, source: Source | None) -> None:
    """Load encoder and codebook, and the decoder with `init_decoder: load`; freeze the former if asked for.

    Raises:
        ConfigError: no source was handed over for `init_from`, or its settings are others.
        DataError: a file is missing, was changed since it was hashed, or does not fit.
    """
    if not config.init_from:
        return
    if source is None:
        raise ConfigError(f"quantize.init_from={config.init_from!r}: the task was given no tokenizer to start from")
    _verified(source.config, source.config_sha256)
    _compare(config, read_config(source.config, "vit_vqgan", "quantize", QuantizeConfig))
    _load(model, _tensors(source), config.init_decoder == "load", source.weights)
    if config.freeze_encoder:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(of_decoder(name))


def _verified(uri: str, sha256: str) -> bytes:
    try:
        data = io.read_bytes(uri)
    except FileNotFoundError:
        raise DataError(f"quantize.init_from: {uri} is gone") from None
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise DataError(f"quantize.init_from: {uri} has sha256 {found[:12]}…, expected {sha256[:12]}…: it was changed")
    return data


def _tensors(source: Source) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = _verified(source.weights, source.weights_sha256)
    try:
        return load(data)
    except SafetensorError as error:
        raise DataError(f"{source.weights}: not a whole safetensors file ({error})") from None


def _value(config: QuantizeConfig, key: str) -> object:
    found: object = config
    for part in key.split("."):
        found = getattr(found, part)
    return found


def _compare(config: QuantizeConfig, theirs: QuantizeConfig) -> None:
    keys = [*SHAPE]
    # Codes are those of the padded batch: another size may round differently (contract 7).
    keys += ["encode_batch"] if config.freeze_encoder else []
    keys += ["decoder"] if config.init_decoder == "load" else []
    for key in keys:
        own, wanted = _value(config, key), _value(theirs, key)
        if own != wanted:
            raise ConfigError(
                f"quantize.{key}={own!r}: the tokenizer of quantize.init_from has {wanted!r}; use the same"
            )
    if config.init_decoder == "load" and (config.loss.logit_laplace > 0) != (theirs.loss.logit_laplace > 0):
        raise ConfigError(
            f"quantize.loss.logit_laplace={config.loss.logit_laplace!r}: the tokenizer of quantize.init_from has "
            f"{theirs.loss.logit_laplace!r}, so its decoder another number of channels; use quantize.init_decoder=fresh"
        )


def _load(model: ViTVQGAN, state: dict[str, Tensor], decoder: bool, uri: str) -> None:
    chosen = {name: value for name, value in state.items() if decoder or not of_decoder(name)}
    own = {name: value for name, value in model.state_dict().items() if decoder or not of_decoder(name)}
    odd = sorted(chosen.keys() ^ own.keys())
    odd += sorted(name for name in chosen.keys() & own.keys() if chosen[name].shape != own[name].shape)
    if odd:
        raise DataError(f"{uri} does not fit the tokenizer of these settings: {', '.join(odd[:8])}")
    # Strict over what is loaded: the names were compared above.
    model.load_state_dict(chosen, strict=False)
