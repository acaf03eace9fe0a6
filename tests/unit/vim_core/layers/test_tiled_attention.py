"""Tiled attention against the library's kernel in fp32: values, gradients, masks, odd lengths."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vim_core.layers import tiled_attention as tiled
from vim_core.layers.tiled_attention import tiled_attention


def inputs(tokens: int, dtype: torch.dtype, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    qkv = torch.randn(batch, tokens, 3, 3, 8).to(dtype)
    q, k, v = (part.requires_grad_() for part in qkv.permute(2, 0, 3, 1, 4).detach())
    return q, k, v


def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two heads of twelve tokens fit; from thirteen on one head, from eighteen on rows of it."""
    monkeypatch.setattr(tiled, "TILE_ROWS", 8)
    monkeypatch.setattr(tiled, "TILE_SCORES", 300)


def results(output: Tensor, sources: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    return (output, *torch.autograd.grad(output, sources, torch.randn(output.shape).to(output.dtype)))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tokens", [1, 8, 12, 16, 20, 31])
def test_values_and_gradients_equal_the_library_kernel(
    causal: bool, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_tiles(monkeypatch)
    sources = inputs(tokens, torch.float32)
    q, k, v = sources
    found = results(tiled_attention(q, k, v, causal), sources)
    expected = results(F.scaled_dot_product_attention(q, k, v, is_causal=causal), sources)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_bf16_is_as_close_to_fp32_as_the_library_kernel(causal: bool) -> None:
    exact = inputs(300, torch.float32)
    truth = results(F.scaled_dot_product_attention(exact[0], exact[1], exact[2], is_causal=causal), exact)
    q, k, v = rounded = inputs(300, torch.bfloat16)
    found = results(tiled_attention(q, k, v, causal), rounded)
    library = results(F.scaled_dot_product_attention(q, k, v, is_causal=causal), rounded)
    for one, other, right in zip(found, library, truth, strict=True):
        assert one.dtype is torch.bfloat16
        assert (one.float() - right).norm() < 1.5 * (other.float() - right).norm() + 1e-3


def test_an_image_does_not_know_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiles(monkeypatch)
    q, k, v = inputs(12, torch.bfloat16, batch=3)
    alone = tiled_attention(q[1:2], k[1:2], v[1:2], False)
    assert torch.equal(tiled_attention(q, k, v, False)[1:2], alone)


def test_nothing_quadratic_is_kept_for_the_backward_pass() -> None:
    q, k, v = inputs(300, torch.bfloat16)
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        tiled_attention(q, k, v, True)
    assert max(kept) == q.numel()


def test_a_second_derivative_is_refused() -> None:
    q, k, v = inputs(4, torch.float32)
    (gradient,) = torch.autograd.grad(tiled_attention(q, k, v, False).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()
