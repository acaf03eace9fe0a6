"""Transformer parts: attention by both kernels, causality, positions by formula."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tests.support.tiny import STACK, enlarge
from vim_core.layers.tiled_attention import tiled_attention
from vim_core.layers.transformer import SHORT_SEQUENCE, Attention, Block, TanhHead, attend, sincos_2d


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tokens", [1, 16, 65])
def test_short_bf16_attention_equals_the_library_kernel(causal: bool, tokens: int) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, tokens, 8)
    exact = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    short = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), causal)
    assert short.dtype is torch.bfloat16
    torch.testing.assert_close(short.float(), exact, atol=0.04, rtol=0.02)


def test_fp32_uses_the_library_kernel_and_long_bf16_the_tiles() -> None:
    q, k, v = torch.randn(3, 1, 2, SHORT_SEQUENCE + 1, 8)
    assert torch.equal(attend(q, k, v, True), F.scaled_dot_product_attention(q, k, v, is_causal=True))
    q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
    assert torch.equal(attend(q, k, v, True), tiled_attention(q, k, v, True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_future_does_not_reach_the_past(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 12, 8).to(dtype)
    before = attend(q, k, v, True)
    k, v = k.clone(), v.clone()
    k[:, :, 8:], v[:, :, 8:] = torch.randn_like(k[:, :, 8:]), torch.randn_like(v[:, :, 8:])
    after = attend(q, k, v, True)
    assert torch.equal(before[:, :, :8], after[:, :, :8])
    assert not torch.equal(before[:, :, 8:], after[:, :, 8:])


def test_attention_without_a_mask_does_not_know_the_order() -> None:
    attention, x = Attention(16, 2), torch.randn(2, 5, 16)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(attention(x)[:, order], attention(x[:, order]))


def test_block_equals_the_library_layer() -> None:
    torch.manual_seed(0)
    block = Block(STACK)
    enlarge(block)
    gelu = torch.nn.GELU("tanh")
    other = torch.nn.TransformerEncoderLayer(16, 2, 32, 0.0, gelu, batch_first=True, norm_first=True)
    mine = {
        "self_attn.in_proj_": block.attention.qkv,
        "self_attn.out_proj.": block.attention.out,
        "linear1.": block.mlp.up,
        "linear2.": block.mlp.down,
        "norm1.": block.norm1,
        "norm2.": block.norm2,
    }
    other.load_state_dict({f"{k}{n}": getattr(m, n) for k, m in mine.items() for n in ("weight", "bias")})
    x = torch.randn(3, 7, 16)
    torch.testing.assert_close(block(x), other(x), atol=1e-5, rtol=1e-5)


def test_head_has_one_tanh_between_two_layers() -> None:
    head, x = TanhHead(4, 6, 3), torch.randn(2, 4)
    expected = torch.tanh(x @ head.up.weight.T + head.up.bias) @ head.down.weight.T + head.down.bias
    torch.testing.assert_close(head(x), expected)


def test_sine_cosine_positions_by_formula() -> None:
    height, width, dim = 3, 5, 8
    positions = sincos_2d(height, width, dim)
    assert positions.shape == (height * width, dim)
    for row in range(height):
        for column in range(width):
            frequencies = [1 / 10_000 ** (i / (dim // 4)) for i in range(dim // 4)]
            expected = [f(place * w) for place in (row, column) for f in (math.sin, math.cos) for w in frequencies]
            torch.testing.assert_close(positions[row * width + column], torch.tensor(expected))
