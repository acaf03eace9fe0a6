"""The paper's sizes: the printed column by its formula, honest counts, and networks of every preset without storage."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from vim_core.config import StackConfig
from vim_core.errors import ConfigError
from vim_core.models.parameter_counts import (
    PRINTED,
    ParameterCount,
    count_parameters,
    parameter_counts,
    parameter_table,
)
from vim_core.models.prior import ImagePrior
from vim_core.models.vit_vqgan import ViTVQGAN


@pytest.fixture(scope="module")
def rows() -> dict[str, ParameterCount]:
    return {row.name: row for row in parameter_counts()}


def on_meta(kind: Any, *names: str, **overrides: Any) -> Any:
    with torch.device("meta"):
        return kind.from_preset(*names, **overrides)


@pytest.mark.parametrize(("name", "printed"), PRINTED.items())
def test_the_formula_gives_the_printed_column(rows: dict[str, ParameterCount], name: str, printed: int) -> None:
    assert round(rows[name].formula / 1e6) == printed


def block(stack: StackConfig) -> int:
    """A standard block: four attention matrices, two of the net, all biases, two norms."""
    d, h = stack.dim, stack.mlp
    return 4 * (d * d + d) + (d * h + h) + (h * d + d) + 2 * 2 * d


@pytest.mark.parametrize("name", PRINTED)
def test_our_blocks_are_standard_ones(rows: dict[str, ParameterCount], name: str) -> None:
    assert rows[name].blocks == rows[name].stack.blocks * block(rows[name].stack)


@pytest.mark.parametrize("name", ["small", "base", "large"])
def test_our_tokenizers_by_hand(rows: dict[str, ParameterCount], name: str) -> None:
    row = rows[f"ViT-VQGAN {name}"]
    d, h = row.stack.dim, row.stack.mlp
    stack = row.blocks + 1024 * d + 2 * d
    side = (192 * d + d) + stack + (d * h + h) + (h * d + d) + (d * 32 + 32)
    assert row.side == side
    assert row.whole == side + 8192 * 32 + (32 * d + d) + stack + (d * h + h) + (h * 384 + 384)


@pytest.mark.parametrize("name", ["base", "large"])
def test_our_priors_by_hand(rows: dict[str, ParameterCount], name: str) -> None:
    row = rows[f"VIM {name}"]
    d = row.stack.dim
    assert row.whole == 8192 * d + 1001 * d + 64 * d + row.blocks + 2 * d + (d * 8192 + 8192)


@pytest.mark.parametrize("name", ["base", "large"])
def test_the_modern_variant_has_as_many_parameters(rows: dict[str, ParameterCount], name: str) -> None:
    modern = count_parameters(on_meta(ImagePrior, name, variant="modern"))
    assert modern == pytest.approx(rows[f"VIM {name}"].whole, rel=5e-3)


def test_the_table_states_both(rows: dict[str, ParameterCount]) -> None:
    lines = parameter_table().splitlines()
    assert len(lines) == 2 + len(PRINTED)
    assert lines[6] == "| VIM large | 36 | 32 | 2048 | 8192 | 1697 | 1696.6 | 1812.9 | 1848.6 | 1848.6 |"
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == list(PRINTED)


@pytest.mark.parametrize("name", ["base", "small-large"])
def test_tokenizers_need_no_storage(name: str) -> None:
    model = on_meta(ViTVQGAN, name)
    assert all(value.is_meta for value in [*model.parameters(), *model.buffers()])
    assert (model.grid, model.out_channels, model.codebook.weight.shape) == (32, 6, (8192, 32))


def test_a_pass_needs_no_storage() -> None:
    result = on_meta(ViTVQGAN, "small")(torch.empty(2, 3, 256, 256, device="meta"))
    assert result.raw.shape == (2, 6, 256, 256)
    assert result.quantized.codes.shape == (2 * 1024,)
    codes = torch.empty(2, 256, dtype=torch.int64, device="meta")
    assert on_meta(ImagePrior, "base", grid=[16, 16])(codes, codes[:, 0]).shape == (2, 256, 8192)


def test_small_large_is_a_small_encoder_with_a_large_decoder() -> None:
    model = on_meta(ViTVQGAN, "small-large")
    assert (len(model.encoder.blocks), model.embed.out_features) == (8, 512)
    assert (len(model.decoder.blocks), model.from_code.out_features) == (32, 1280)


def test_overrides_of_the_tokenizer() -> None:
    model = on_meta(
        ViTVQGAN,
        "small",
        image_size=64,
        patch=16,
        positions="sincos",
        codes=512,
        code_dim=8,
        l2=False,
        logit_laplace=False,
    )
    assert model.grid == 4
    assert model.out_channels == 3
    assert model.codebook.weight.shape == (512, 8)
    assert not model.codebook.config.l2
    assert [name for name, _ in model.named_buffers() if "positions" in name] == [
        "encoder.positions",
        "decoder.positions",
    ]


@pytest.mark.parametrize(("name", "variant"), [("base", "modern"), ("large", "paper")])
def test_priors_need_no_storage(name: str, variant: str) -> None:
    model = on_meta(ImagePrior, name, variant=variant, grid=(16, 16), classes=0)
    assert all(value.is_meta for value in [*model.parameters(), *model.buffers()])
    assert (model.shape.grid, model.shape.tokens) == ([16, 16], 256)
    assert (model.null_class, model.class_embedding.num_embeddings) == (0, 1)


@pytest.mark.parametrize("kind", [ViTVQGAN, ImagePrior])
def test_unknown_presets_are_refused(kind: type[nn.Module]) -> None:
    with pytest.raises(ConfigError, match=r"preset 'tiny'; there are .*base, large"):
        on_meta(kind, "tiny")
    with pytest.raises(TypeError, match="colour"):
        on_meta(kind, "base", colour=1)
