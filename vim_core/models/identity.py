"""What decides a tokenizer's codes, as one hash: two tokenizers that share it differ in their decoders alone."""

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
"""Parts behind the codebook; all others decide the codes."""
CODE_SETTINGS = ("image_size", "patch", "positions", "encoder", "codebook.codes", "codebook.dim", "codebook.l2", "tanh")
"""Settings that give the same weights another meaning."""
LATER_DEFAULTS = {"tanh": "head"}
"""Settings that joined them after digests were made, with the values that are left out of digests."""
USAGE = "codebook.usage"
"""How often codes were used in training says nothing of which they are."""


def is_decoder_tensor(name: str) -> bool:
    """Whether a tensor of the network belongs to the decoder's side."""
    return name.split(".", 1)[0] in DECODER_PARTS


def setting(config: QuantizeConfig, key: str) -> object:
    """The value of a dotted key."""
    found: object = config
    for part in key.split("."):
        found = getattr(found, part)
    return found


def encoder_digest(weights_uri: str, config_uri: str) -> str:
    """sha256 over everything that makes codes of images: encoder, codebook, their settings and the encode batch.

    The weights are read one tensor after another.

    Raises:
        DataError: the config is missing or damaged, or of another kind of model.
        FileNotFoundError: there are no weights.
    """
    from safetensors import safe_open

    config = read_config(config_uri, "vit_vqgan", "quantize", QuantizeConfig)
    # Codes are those of the padded batch: another size may round differently (contract 7).
    known = {key: setting(config, key) for key in (*CODE_SETTINGS, "encode_batch")}
    settings = {key: value for key, value in known.items() if key not in LATER_DEFAULTS or LATER_DEFAULTS[key] != value}
    settings |= {"encoder": asdict(config.encoder)}
    found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    with io.local_copy(weights_uri) as path:
        with safe_open(path, framework="np") as file:
            names = sorted(name for name in file.keys() if not is_decoder_tensor(name) and name != USAGE)  # noqa: SIM118
        for name in names:
            value = TensorFile(path).rows(name)
            found.update(f"\n{name} {value.dtype} {list(value.shape)}\n".encode())
            found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
