"""Encoder digest: one hash of all that determines a tokenizer's codes, which leaves out its decoder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

import torch

from vim_core.config import QuantizeConfig
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


def setting(config: QuantizeConfig, key: str) -> object:
    """The value of a dotted key."""
    value: object = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


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
    values = {key: setting(config, key) for key in (*CODE_SETTINGS, "encode_batch")}
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
