"""The paper's sizes (Table 2) by name, and an honest count of parameters beside the printed one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import nn

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

TOKENIZERS = {"small": ("small", "small"), "base": ("base", "base"), "large": ("large", "large")} | {
    "small-large": ("small", "large")
}
"""Encoder and decoder of each tokenizer; the paper uses small, base and small-large (section 5.1)."""

PRINTED = {"ViT-VQGAN small": 32, "ViT-VQGAN base": 91, "ViT-VQGAN large": 599, "VIM base": 650, "VIM large": 1697}
"""Table 2's column Params, in millions."""


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
        image_size: side of the square images it is trained at.
        patch: side of a patch, one token each.
        positions: `learned` or `sincos`.
        codes: entries of the codebook.
        code_dim: width of a code, 4 to 256 in the paper's Table 4.
        l2: normalise codes and latents.
        logit_laplace: six output channels, mean and log-scale of each logit, else three.
        recompute: run each block again in the backward pass instead of keeping its activations.

    Raises:
        ConfigError: there is no such preset, or a value is out of its range.
    """
    encoder, decoder = _named(TOKENIZERS, name, "tokenizer")
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
    return replace(_named(PRIOR_STACKS, name, "prior"))


def _named(table: dict[str, T], name: str, kind: str) -> T:
    if name not in table:
        raise ConfigError(f"there is no {kind} preset {name!r}; there are {', '.join(table)}")
    return table[name]


def parameters(module: nn.Module) -> int:
    """Number of trained values."""
    return sum(p.numel() for p in module.parameters())


def paper_formula(stack: StackConfig) -> int:
    """The count that gives Table 2's Params on all five rows (inferred, not in the paper).

    Attention as three matrices instead of four, no biases or norms, and for tokenizers too an 8,192-way embedding, as
    many outputs, and 1,024 positions.
    """
    block = 3 * stack.dim * stack.dim + 2 * stack.dim * stack.mlp
    return stack.blocks * block + (2 * 8192 + 1024) * stack.dim


@dataclass(frozen=True)
class Count:
    """One row of the table; `side` of a tokenizer is its encoder with patch embedding, head and code projection."""

    name: str
    stack: StackConfig
    printed: int
    formula: int
    blocks: int
    side: int
    whole: int


def counts() -> list[Count]:
    """Table 2 with the formula's count and those of our networks, built on the meta device.

    A tokenizer is 256x256, patch 8, with encoder and decoder of that size and 8,192 codes of 32 numbers; a prior has
    1,024 tokens, 8,192 codes and 1,000 classes.
    """
    from vim_core.models.prior import ImagePrior
    from vim_core.models.vit_vqgan import ViTVQGAN

    rows = []
    with torch.device("meta"):
        for name, stack in TOKENIZER_STACKS.items():
            tokenizer = ViTVQGAN.from_preset(name)
            encoder = (tokenizer.embed, tokenizer.encoder, tokenizer.encoder_head, tokenizer.to_code)
            ours = sum(parameters(part) for part in encoder)
            rows.append(_count(f"ViT-VQGAN {name}", stack, tokenizer.encoder.blocks, ours, parameters(tokenizer)))
        for name, stack in PRIOR_STACKS.items():
            prior = ImagePrior.from_preset(name)
            rows.append(_count(f"VIM {name}", stack, prior.blocks, parameters(prior), parameters(prior)))
    return rows


def _count(name: str, stack: StackConfig, blocks: nn.Module, ours: int, whole: int) -> Count:
    return Count(name, stack, PRINTED[name], paper_formula(stack), parameters(blocks), ours, whole)


def table() -> str:
    """The counts as a Markdown table, in millions."""
    lines = [
        "| Model | Blocks | Heads | Dim | MLP | Params, printed | by formula | our blocks | our side | our network |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in counts():
        stack, millions = row.stack, [f"{n / 1e6:.1f}" for n in (row.formula, row.blocks, row.side, row.whole)]
        cells = [row.name, stack.blocks, stack.heads, stack.dim, stack.mlp, row.printed, *millions]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)
