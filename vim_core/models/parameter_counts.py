"""Parameters of the paper's sizes: as printed in Table 2, by the formula behind the print, and of our networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from vim_core.config import StackConfig
from vim_core.models.prior import ImagePrior
from vim_core.models.sizes import PRIOR_STACKS, TOKENIZER_STACKS
from vim_core.models.vit_vqgan import ViTVQGAN

PRINTED = {"ViT-VQGAN small": 32, "ViT-VQGAN base": 91, "ViT-VQGAN large": 599, "VIM base": 650, "VIM large": 1697}
"""Table 2's column Params, in millions."""


def count_parameters(module: nn.Module) -> int:
    """Number of trained values."""
    return sum(p.numel() for p in module.parameters())


def printed_formula(stack: StackConfig) -> int:
    """The count that gives Table 2's Params on all five rows (inferred, not in the paper).

    Attention as three matrices instead of four, no biases or norms, and for tokenizers too an 8,192-way embedding, as
    many outputs, and 1,024 positions.
    """
    block = 3 * stack.dim * stack.dim + 2 * stack.dim * stack.mlp
    return stack.blocks * block + (2 * 8192 + 1024) * stack.dim


@dataclass(frozen=True)
class ParameterCount:
    """One row of the table; `side` of a tokenizer is its encoder with patch embedding, head and code projection."""

    name: str
    stack: StackConfig
    printed: int
    formula: int
    blocks: int
    side: int
    whole: int


def parameter_counts() -> list[ParameterCount]:
    """Table 2 with the formula's count and those of our networks, built on the meta device.

    A tokenizer is 256x256, patch 8, with encoder and decoder of that size and 8,192 codes of 32 numbers; a prior has
    1,024 tokens, 8,192 codes and 1,000 classes.
    """

    def count(name: str, stack: StackConfig, blocks: nn.Module, side: int, whole: int) -> ParameterCount:
        return ParameterCount(name, stack, PRINTED[name], printed_formula(stack), count_parameters(blocks), side, whole)

    counts = []
    with torch.device("meta"):
        for name, stack in TOKENIZER_STACKS.items():
            tokenizer = ViTVQGAN.from_preset(name)
            encoder = (tokenizer.embed, tokenizer.encoder, tokenizer.encoder_head, tokenizer.to_code)
            side, whole = sum(map(count_parameters, encoder)), count_parameters(tokenizer)
            counts.append(count(f"ViT-VQGAN {name}", stack, tokenizer.encoder.blocks, side, whole))
        for name, stack in PRIOR_STACKS.items():
            prior = ImagePrior.from_preset(name)
            whole = count_parameters(prior)
            counts.append(count(f"VIM {name}", stack, prior.blocks, whole, whole))
    return counts


def parameter_table() -> str:
    """The counts as a Markdown table, in millions."""
    lines = [
        "| Model | Blocks | Heads | Dim | MLP | Params, printed | by formula | our blocks | our side | our network |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in parameter_counts():
        stack, millions = row.stack, [f"{n / 1e6:.1f}" for n in (row.formula, row.blocks, row.side, row.whole)]
        cells = [row.name, stack.blocks, stack.heads, stack.dim, stack.mlp, row.printed, *millions]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)
