"""Conversion of stage-1 checkpoints of enhancing-transformers (thuanz123, the public ViT-VQGAN weights).

Tensors of their network: `encoder.to_patch_embedding.0` (convolution over images in [0, 1]),
`encoder.en_pos_embedding` (fixed 2D sine-cosine, columns first), `encoder.transformer.layers.<i>.0` (norm, attention
without bias on queries, keys and values) and `.1` (norm, two layers with a tanh), a last norm, `pre_quant`,
`quantizer.embedding` (looked up by cosine), `post_quant`, a decoder of the same blocks, and `decoder.to_pixel`, a
transposed convolution. The last norms are `<side>.transformer.norm` or, in earlier versions, `<side>.norm`, the pixel
layer `to_pixel.1` or `to_pixel.conv_out`. Tensors under `loss.` belong to training.

Our network computes the same function: their convolutions do not overlap, so they are linear layers over patches; the
change from images in [0, 1] to [-1, 1] is folded into the first layer's weights and bias, missing biases are zeros, and
the stored positions become learned ones. Heads narrower than dim / heads are padded with zeros.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vim_core.config import CodebookConfig, LossConfig, QuantizeConfig, StackConfig
from vim_core.errors import DataError, StorageError
from vim_core.models.vit_vqgan import ViTVQGAN
from vim_core.storage import io

State = dict[str, Tensor]
HEAD_DIM = 64
"""Width of a head in all of their configurations; it cannot be derived from the tensors."""
ENCODE_BATCH = 8


def load_enhancing(uri: str, head_dim: int = HEAD_DIM) -> ViTVQGAN:
    """The tokenizer of a checkpoint file; only tensors are unpickled.

    Args:
        uri: path or URI of a file written by Lightning or `torch.save`: a state dict, or one under `state_dict`.
        head_dim: width of an attention head.

    Raises:
        DataError: the file is missing, holds more than tensors and plain values, or is not of this layout.
    """
    try:
        with io.local_copy(uri) as path:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"{uri}: no such file") from None
    except StorageError:
        raise
    except Exception as error:  # torch's reader of damaged files raises whatever its bytes lead to
        rule = "save its 'state_dict' alone with torch.save where you trust it"
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{uri}: not a file of tensors alone ({reason}); {rule}") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{uri}: holds no tensors by name, neither under 'state_dict' nor by itself")
    return convert_state_dict(state, uri, head_dim)


def convert_state_dict(state: State, name: str = "state", head_dim: int = HEAD_DIM) -> ViTVQGAN:
    """The tokenizer of their state dict. Raises `DataError` naming a tensor that is missing or unknown."""
    names = {"encoder.norm.": "encoder.transformer.norm.", "decoder.norm.": "decoder.transformer.norm."}
    names |= {"decoder.to_pixel.conv_out.": "decoder.to_pixel.1."}
    newest = {}
    for key, value in state.items():
        old = next((old for old in names if key.startswith(old)), "")
        if not key.startswith("loss."):
            newest[names[old] + key.removeprefix(old) if old else key] = value
    source = _StateDict(newest, name)
    config = _config(source, head_dim)
    model = ViTVQGAN(config)
    new = {"codebook.weight": source.take("quantizer.embedding.weight"), "codebook.usage": model.codebook.usage}
    new |= _outer_layers(source, config.patch)
    for side, prefix, stack in (("encoder", "en", config.encoder), ("decoder", "de", config.decoder)):
        new[f"{side}.positions"] = source.take(f"{side}.{prefix}_pos_embedding")[0]
        new |= source.layer(f"{side}.transformer.norm", f"{side}.norm")
        for index in range(stack.blocks):
            new |= _block(source, f"{side}.transformer.layers.{index}", f"{side}.blocks.{index}", stack, head_dim)
    if source.left:
        raise DataError(f"{name}: has unknown tensors: {', '.join(sorted(source.left)[:4])}")
    try:
        model.load_state_dict({key: value.float() for key, value in new.items()}, strict=True)
    except RuntimeError as error:
        raise DataError(f"{name}: not of enhancing-transformers' layout: {error}") from None
    return model.eval()


class _StateDict:
    """A state dict of which every tensor must be taken."""

    def __init__(self, state: State, name: str) -> None:
        self.state, self.name, self.left = state, name, set(state)

    def take(self, key: str) -> Tensor:
        """A tensor, which must exist."""
        if key not in self.state:
            rule = "expected a ViT-VQGAN of enhancing-transformers with a norm behind either stack"
            raise DataError(f"{self.name}: has no {key}; {rule}")
        self.left.discard(key)
        return self.state[key]

    def layer(self, theirs: str, ours: str) -> State:
        """Weight and bias of a layer under our name."""
        return {f"{ours}.{part}": self.take(f"{theirs}.{part}") for part in ("weight", "bias")}


def _config(source: _StateDict, head_dim: int) -> QuantizeConfig:
    patch = source.take("encoder.to_patch_embedding.0.weight").shape[-1]
    side = math.isqrt(source.take("encoder.en_pos_embedding").shape[1])
    codes, dim = source.take("quantizer.embedding.weight").shape
    return QuantizeConfig(
        image_size=side * patch,
        patch=patch,
        positions="learned",
        encoder=_stack(source, "encoder", head_dim),
        decoder=_stack(source, "decoder", head_dim),
        codebook=CodebookConfig(codes=codes, dim=dim),
        # As they trained it, but for the perceptual term, whose weights we do not have.
        loss=LossConfig(logit_laplace=0.0, perceptual=0.0),
        tanh="blocks",
        encode_batch=ENCODE_BATCH,
    )


def _stack(source: _StateDict, side: str, head_dim: int) -> StackConfig:
    first = f"{side}.transformer.layers.0"
    rows, dim = source.take(f"{first}.0.fn.to_qkv.weight").shape
    heads = rows // (3 * head_dim)
    if rows % (3 * head_dim) or dim % heads or dim // heads < head_dim:
        rule = f"do not make heads of width {head_dim} for a model of width {dim}; pass the right head width"
        raise DataError(f"{source.name}: {rows} rows of {first}.0.fn.to_qkv.weight {rule}")
    blocks = {key.split(".")[3] for key in source.state if key.startswith(f"{side}.transformer.layers.")}
    return StackConfig(len(blocks), heads, dim, source.take(f"{first}.1.fn.net.0.weight").shape[0])


def _outer_layers(source: _StateDict, patch: int) -> State:
    """Layers outside the stacks: patch embedding, both projections at the codebook, pixel head."""
    kernel, bias = (source.take(f"encoder.to_patch_embedding.0.{part}") for part in ("weight", "bias"))
    # w x + b of x = (y + 1) / 2 is (w / 2) y + (b + sum(w) / 2).
    embed = kernel.double().permute(0, 2, 3, 1).flatten(1) / 2
    kernel, shift = (source.take(f"decoder.to_pixel.1.{part}") for part in ("weight", "bias"))
    return {
        "embed.weight": embed,
        "embed.bias": bias.double() + embed.sum(1),
        "decoder_head.weight": kernel.permute(2, 3, 1, 0).flatten(0, 2),
        "decoder_head.bias": shift.repeat(patch * patch),
        **source.layer("pre_quant", "to_code"),
        **source.layer("post_quant", "from_code"),
    }


def _block(source: _StateDict, theirs: str, ours: str, stack: StackConfig, head_dim: int) -> State:
    tensors = source.layer(f"{theirs}.0.norm", f"{ours}.norm1") | source.layer(f"{theirs}.1.norm", f"{ours}.norm2")
    tensors |= source.layer(f"{theirs}.1.fn.net.0", f"{ours}.mlp.up")
    tensors |= source.layer(f"{theirs}.1.fn.net.2", f"{ours}.mlp.down")
    dim, heads, width = stack.dim, stack.heads, stack.dim // stack.heads
    their_qkv = source.take(f"{theirs}.0.fn.to_qkv.weight")
    qkv = their_qkv.new_zeros(3, heads, width, dim)
    qkv[:, :, :head_dim] = their_qkv.view(3, heads, head_dim, dim)
    # Our scores are divided by the root of the padded width, theirs by that of their heads.
    qkv[0] *= math.sqrt(width / head_dim)
    out = their_qkv.new_zeros(dim, heads, width)
    if heads == 1 and head_dim == dim and f"{theirs}.0.fn.to_out.weight" not in source.state:
        # Without an output projection where there is one head of the model's width.
        out[:, 0], bias = torch.eye(dim), their_qkv.new_zeros(dim)
    else:
        out[:, :, :head_dim] = source.take(f"{theirs}.0.fn.to_out.weight").view(dim, heads, head_dim)
        bias = source.take(f"{theirs}.0.fn.to_out.bias")
    return tensors | {
        f"{ours}.attention.qkv.weight": qkv.reshape(3 * dim, dim),
        f"{ours}.attention.qkv.bias": their_qkv.new_zeros(3 * dim),
        f"{ours}.attention.out.weight": out.flatten(1),
        f"{ours}.attention.out.bias": bias,
    }
