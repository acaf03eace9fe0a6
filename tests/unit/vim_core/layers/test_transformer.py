"""Transformer parts: attention by both kernels, causality, positions by formula, dropout's rate and seeding."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tests.support.tiny import STACK, enlarge
from vim_core.layers.tiled_attention import tiled_attention
from vim_core.layers.transformer import (
    SHORT_SEQUENCE,
    Block,
    Dropout,
    TanhHead,
    attend,
    keep_mask,
    sincos_2d,
)


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


COUNT = 400_003  # not a multiple of four


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_share_of_zeros_is_the_rate_and_the_mean_is_kept(rate: float) -> None:
    torch.manual_seed(0)
    mask = keep_mask(torch.ones(COUNT), rate)
    deviation = math.sqrt(rate * (1 - rate) / COUNT)
    assert abs(float((mask == 0).double().mean()) - rate) < 5 * deviation
    assert abs(float(mask.double().mean()) - 1) < 5 * deviation / (1 - rate)
    torch.testing.assert_close(mask.max(), torch.tensor(1 / (1 - rate)), atol=1e-4, rtol=1e-4)
    assert len(mask.unique()) == 2


def test_neighbours_are_independent() -> None:
    torch.manual_seed(1)
    dropped = keep_mask(torch.ones(COUNT), 0.3) == 0
    for distance in (1, 2, 3, 4):
        both = float((dropped[distance:] & dropped[:-distance]).double().mean())
        assert abs(both - 0.09) < 5 * math.sqrt(0.09 * 0.91 / COUNT)


def test_evaluation_and_rate_zero_are_the_identity() -> None:
    x = torch.randn(5, 7)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0).train()(x) is x


def test_noise_comes_from_the_default_generator() -> None:
    layer, x = Dropout(0.5).train(), torch.ones(33, 3)

    def seeded(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return layer(x)  # type: ignore[no-any-return]

    first = seeded(3)
    second_draw = layer(x)
    assert torch.equal(first, seeded(3))
    assert not torch.equal(first, second_draw)
    assert not torch.equal(first, seeded(4))


def test_gradient_has_the_mask_of_the_forward_pass() -> None:
    x = torch.ones(64, 9, requires_grad=True)
    y = Dropout(0.4).train()(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())
    assert 0 < int((x.grad == 0).sum()) < x.numel()
