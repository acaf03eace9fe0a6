"""The modern block: each part against another definition of it, and the whole prior made of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.support.tiny import STACK, enlarge, prior_network
from vim_core.config import StackConfig
from vim_core.errors import ConfigError
from vim_core.layers.modern import ModernBlock, RMSNorm, Rotary, swiglu_width
from vim_core.models.prior import PriorShape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_equals_the_library_layer(dtype: torch.dtype) -> None:
    mine, other = RMSNorm(12), torch.nn.RMSNorm(12, eps=1e-6)
    enlarge(mine)
    other.load_state_dict(mine.state_dict())
    x = (torch.randn(3, 5, 12) * 4).to(dtype)
    found = mine(x)
    assert found.dtype is dtype
    torch.testing.assert_close(found, other(x.float()).to(dtype))


def turned(x: Tensor, angle: float, row: int, column: int) -> Tensor:
    """One head's vector by complex products, pair by pair; `angle` is the base of the frequencies."""
    pairs = len(x) // 4
    z = torch.complex(*x.double().chunk(2))
    speed = [angle ** (-i / pairs) for i in range(pairs)]
    turn = torch.tensor([row * w for w in speed] + [column * w for w in speed], dtype=torch.float64)
    z = z * torch.polar(torch.ones_like(turn), turn)
    return torch.cat([z.real, z.imag])


def test_rotation_equals_complex_products() -> None:
    rotary, x = Rotary((3, 5), 8), torch.randn(2, 3, 16, 8)
    found = rotary(x).double()
    for token in range(16):
        row, column = (0, 0) if token == 0 else ((token - 1) // 5 + 1, (token - 1) % 5 + 1)
        for batch in range(2):
            for head in range(3):
                expected = turned(x[batch, head, token], 10_000.0, row, column)
                torch.testing.assert_close(found[batch, head, token], expected, atol=1e-5, rtol=1e-5)
    one = rotary(x[:, :, 7:8], torch.tensor([7]))
    assert torch.equal(one, rotary(x)[:, :, 7:8])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3), st.integers(0, 4), st.integers(0, 3), st.integers(0, 4), st.integers(0, 3), st.integers(0, 4))
def test_products_depend_on_the_offset_alone(r1: int, c1: int, r2: int, c2: int, down: int, right: int) -> None:
    rotary = Rotary((8, 9), 16)
    generator = torch.Generator().manual_seed(1)
    q, k = torch.randn(2, 16, generator=generator)

    def product(row1: int, column1: int, row2: int, column2: int) -> float:
        places = (row1 * 9 + column1 + 1, row2 * 9 + column2 + 1)
        a, b = (rotary(v.view(1, 1, 1, 16), torch.tensor([p])) for v, p in zip((q, k), places, strict=True))
        return float((a * b).sum())

    moved = product(r1 + down, c1 + right, r2 + down, c2 + right)
    assert product(r1, c1, r2, c2) == pytest.approx(moved, abs=1e-4)
    other = product(r1 + down + 1, c1 + right, r2 + down, c2 + right)
    assert abs(other - moved) > 1e-3


@pytest.mark.parametrize("mlp", [32, 256, 768, 3072, 6144, 8192])
def test_gated_width_keeps_the_parameters(mlp: int) -> None:
    width = swiglu_width(mlp)
    assert width % (64 if mlp >= 768 else 8) == 0
    assert abs(3 * width - 2 * mlp) <= 3 * (32 if mlp >= 768 else 4)


def test_block_by_its_formula() -> None:
    rotary = Rotary((2, 3), 8)
    block, x = ModernBlock(STACK, 0.0, rotary), torch.randn(2, 7, 16)
    enlarge(block)

    def rms(y: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(y, (y.shape[-1],), weight, 1e-6)

    q, k, v = (block.attention.qkv.weight @ rms(x, block.norm1.weight).mT).mT.split(16, dim=-1)  # type: ignore[arg-type]
    heads = []
    for part in range(2):
        at = slice(8 * part, 8 * part + 8)
        q1 = rotary(rms(q[..., at], block.attention.query_norm.weight)[:, None])[:, 0]  # type: ignore[union-attr,arg-type]
        k1 = rotary(rms(k[..., at], block.attention.key_norm.weight)[:, None])[:, 0]  # type: ignore[union-attr,arg-type]
        scores = (q1 @ k1.mT / 8**0.5).masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf)
        heads.append(scores.softmax(-1) @ v[..., at])
    y = x + torch.cat(heads, dim=-1) @ block.attention.out.weight.T
    expected = y + block.mlp(rms(y, block.norm2.weight))  # type: ignore[arg-type]
    torch.testing.assert_close(block(x), expected, atol=1e-4, rtol=1e-4)


def test_variants_and_head_widths_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"prior\.variant='newest': must be one of paper, modern"):
        PriorShape(variant="newest")
    with pytest.raises(ConfigError, match="width divisible by 4, got 6"):
        prior_network(variant="modern", stack=StackConfig(1, 2, 12, 16))
