"""The paper's sizes: the printed column by its formula, honest counts, and networks of every preset without storage."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from tests.support.common import REPOSITORY
from vim_core.config import StackConfig
from vim_core.errors import ConfigError
from vim_core.models.prior import ImagePrior
from vim_core.models.sizes import PRIOR_STACKS, TOKENIZER_STACKS
from vim_core.models.vit_vqgan import ViTVQGAN

PRINTED = {"ViT-VQGAN small": 32, "ViT-VQGAN base": 91, "ViT-VQGAN large": 599, "VIM base": 650, "VIM large": 1697}
"""Table 2's column Params, in millions."""


class Count(NamedTuple):
    """Parameters of a network; `side` of a tokenizer is its encoder with patch embedding, head and code projection."""

    stack: StackConfig
    blocks: int
    side: int
    whole: int


def on_meta(kind: Any, *names: str, **overrides: Any) -> Any:
    with torch.device("meta"):
        return kind.from_preset(*names, **overrides)


def parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.fixture(scope="module")
def counts() -> dict[str, Count]:
    """Tokenizers of 256x256, patch 8 and 8,192 codes of 32 numbers; priors of 1,024 such codes and 1,000 classes."""
    result = {}
    for name, stack in TOKENIZER_STACKS.items():
        model = on_meta(ViTVQGAN, name)
        side = parameters(model.embed, model.encoder, model.encoder_head, model.to_code)
        result[f"ViT-VQGAN {name}"] = Count(stack, parameters(model.encoder.blocks), side, parameters(model))
    for name, stack in PRIOR_STACKS.items():
        prior = on_meta(ImagePrior, name)
        result[f"VIM {name}"] = Count(stack, parameters(prior.blocks), parameters(prior), parameters(prior))
    return result


def printed_formula(stack: StackConfig) -> int:
    """The count that gives Table 2's Params on all five rows (inferred, not in the paper).

    Attention as three matrices instead of four, no biases or norms, and for tokenizers too an 8,192-way embedding, as
    many outputs, and 1,024 positions.
    """
    block = 3 * stack.dim * stack.dim + 2 * stack.dim * stack.mlp
    return stack.blocks * block + (2 * 8192 + 1024) * stack.dim


@pytest.mark.parametrize(("name", "printed"), PRINTED.items())
def test_the_formula_gives_the_printed_column_and_the_readme_states_both(
    counts: dict[str, Count], name: str, printed: int
) -> None:
    stack, *ours = counts[name]
    assert round(printed_formula(stack) / 1e6) == printed
    millions = [f"{count / 1e6:.1f}" for count in (printed_formula(stack), *ours)]
    row = [name, stack.blocks, stack.heads, stack.dim, stack.mlp, printed, *millions]
    readme = (REPOSITORY / "vim_core" / "README.md").read_text(encoding="utf-8")
    assert f"| {' | '.join(map(str, row))} |" in readme


def block(stack: StackConfig) -> int:
    """A standard block: four attention matrices, two of the net, all biases, two norms."""
    d, h = stack.dim, stack.mlp
    return 4 * (d * d + d) + (d * h + h) + (h * d + d) + 2 * 2 * d


@pytest.mark.parametrize("name", TOKENIZER_STACKS)
def test_our_tokenizers_by_hand(counts: dict[str, Count], name: str) -> None:
    row = counts[f"ViT-VQGAN {name}"]
    d, h = row.stack.dim, row.stack.mlp
    assert row.blocks == row.stack.blocks * block(row.stack)
    stack = row.blocks + 1024 * d + 2 * d
    side = (192 * d + d) + stack + (d * h + h) + (h * d + d) + (d * 32 + 32)
    assert row.side == side
    assert row.whole == side + 8192 * 32 + (32 * d + d) + stack + (d * h + h) + (h * 384 + 384)


@pytest.mark.parametrize("name", PRIOR_STACKS)
def test_our_priors_by_hand(counts: dict[str, Count], name: str) -> None:
    row = counts[f"VIM {name}"]
    d = row.stack.dim
    assert row.blocks == row.stack.blocks * block(row.stack)
    assert row.whole == 8192 * d + 1001 * d + 64 * d + row.blocks + 2 * d + (d * 8192 + 8192)
    modern = parameters(on_meta(ImagePrior, name, variant="modern"))
    assert modern == pytest.approx(row.whole, rel=5e-3)


def test_a_pass_needs_no_storage() -> None:
    tokenizer = on_meta(ViTVQGAN, "small")
    assert all(value.is_meta for value in [*tokenizer.parameters(), *tokenizer.buffers()])
    assert (tokenizer.grid, tokenizer.out_channels, tokenizer.codebook.weight.shape) == (32, 6, (8192, 32))
    result = tokenizer(torch.empty(2, 3, 256, 256, device="meta"))
    assert result.raw.shape == (2, 6, 256, 256)
    assert result.quantized.codes.shape == (2 * 1024,)
    codes = torch.empty(2, 256, dtype=torch.int64, device="meta")
    prior = on_meta(ImagePrior, "base", variant="modern", grid=(16, 16), classes=0)
    assert all(value.is_meta for value in [*prior.parameters(), *prior.buffers()])
    assert (prior.shape.grid, prior.shape.tokens, prior.null_class) == ([16, 16], 256, 0)
    assert prior(codes, codes[:, 0]).shape == (2, 256, 8192)


def test_overrides_of_the_tokenizer_and_a_larger_decoder() -> None:
    fields = {"image_size": 64, "patch": 16, "positions": "sincos", "codes": 512, "code_dim": 8, "l2": False}
    model = on_meta(ViTVQGAN, "small", **fields, logit_laplace=False)
    assert (model.grid, model.out_channels, model.codebook.weight.shape) == (4, 3, (512, 8))
    assert not model.codebook.config.l2
    assert not model.encoder.learned
    model = on_meta(ViTVQGAN, "small-large")
    assert (len(model.encoder.blocks), model.embed.out_features) == (8, 512)
    assert (len(model.decoder.blocks), model.from_code.out_features) == (32, 1280)


@pytest.mark.parametrize("kind", [ViTVQGAN, ImagePrior])
def test_unknown_presets_are_refused(kind: type[nn.Module]) -> None:
    with pytest.raises(ConfigError, match=r"preset 'tiny'; there are .*base, large"):
        on_meta(kind, "tiny")
    with pytest.raises(TypeError, match="colour"):
        on_meta(kind, "base", colour=1)
