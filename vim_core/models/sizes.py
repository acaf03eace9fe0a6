"""Settings of the paper's model sizes (Table 2) by name."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from vim_core.config import CodebookConfig, LossConfig, QuantizeConfig, StackConfig
from vim_core.errors import ConfigError

T = TypeVar("T")

TOKENIZER_STACKS = {
    "small": StackConfig(blocks=8, heads=8, dim=512, mlp=2048),
    "base": StackConfig(blocks=12, heads=12, dim=768, mlp=3072),
    "large": StackConfig(blocks=32, heads=16, dim=1280, mlp=5120),
}
"""ViT-VQGAN's sizes; encoder and decoder are one such stack each."""

PRIOR_STACKS = {
    "base": StackConfig(blocks=24, heads=16, dim=1536, mlp=6144),
    "large": StackConfig(blocks=36, heads=32, dim=2048, mlp=8192),
}
"""VIM's sizes."""

TOKENIZERS = {name: (name, name) for name in TOKENIZER_STACKS} | {"small-large": ("small", "large")}
"""Encoder and decoder of each tokenizer; the paper uses small, base and small-large (section 5.1)."""


def tokenizer_settings(
    name: str,
    *,
    image_size: int = 256,
    patch: int = 8,
    positions: str = "learned",
    codes: int = 8192,
    code_dim: int = 32,
    l2: bool = True,
    logit_laplace: bool = True,
    recompute: bool = False,
) -> QuantizeConfig:
    """Settings of a tokenizer of the paper's sizes; what concerns training keeps its defaults.

    Args:
        name: `small`, `base`, `large` or `small-large`.
        image_size, patch: sides in pixels of the square images it is trained at, and of a token's patch.
        positions: `learned` or `sincos`.
        codes, code_dim: entries of the codebook and their width, 4 to 256 in the paper's Table 4.
        l2: normalise codes and latents.
        logit_laplace: six output channels, mean and log-scale of each logit, else three.
        recompute: run each block again in the backward pass instead of keeping its activations.

    Raises:
        ConfigError: there is no such preset, or a value is out of its range.
    """
    encoder, decoder = _lookup(TOKENIZERS, name, "tokenizer")
    return QuantizeConfig(
        image_size=image_size,
        patch=patch,
        positions=positions,
        encoder=replace(TOKENIZER_STACKS[encoder]),
        decoder=replace(TOKENIZER_STACKS[decoder]),
        codebook=CodebookConfig(codes=codes, dim=code_dim, l2=l2),
        loss=LossConfig(logit_laplace=0.1 if logit_laplace else 0.0),
        recompute=recompute,
    )


def prior_stack(name: str) -> StackConfig:
    """The stack of VIM `base` or `large`.

    Raises:
        ConfigError: there is no such preset.
    """
    return replace(_lookup(PRIOR_STACKS, name, "prior"))


def _lookup(table: dict[str, T], name: str, kind: str) -> T:
    if name not in table:
        raise ConfigError(f"there is no {kind} preset {name!r}; there are {', '.join(table)}")
    return table[name]
