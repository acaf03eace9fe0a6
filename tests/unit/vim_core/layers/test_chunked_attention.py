"""Attention in chunks against the library's: values, gradients, and that no score matrix is ever whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.unit.vim_core.layers.test_tiled_attention import inputs, results
from vim_core.layers import chunked_attention as chunked
from vim_core.layers.chunked_attention import chunk_bytes, chunked_attention


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tokens", [1, 8, 20, 31])
def test_values_and_gradients_equal_the_librarys(causal: bool, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "CHUNK_ROWS", 8)
    q, k, v = exact = inputs(tokens, torch.float32)
    found = results(chunked_attention(q, k, v, causal), exact)
    expected = results(F.scaled_dot_product_attention(q, k, v, is_causal=causal), exact)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-5)
    a, b, c = rounded = inputs(tokens, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = results(chunked_attention(a, b, c, causal), rounded)
    for one, other in zip(found, results(chunked_attention(q, k, v, causal), exact), strict=True):
        assert one.dtype is torch.bfloat16
        torch.testing.assert_close(one.float(), other, atol=0.05, rtol=0.02)


def test_memory_is_that_of_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor has all scores, and nothing but queries, keys and values is kept for the backward pass."""
    monkeypatch.setattr(chunked, "CHUNK_ROWS", 8)
    shapes: list[tuple[int, ...]] = []
    saved: list[torch.Size] = []

    class Recorded(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **kwargs or {})
            shapes.extend(tuple(t.shape) for t in tree_leaves(out) if isinstance(t, torch.Tensor))
            return out

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.shape)
        return tensor

    q, k, v = sources = inputs(40, torch.float32)
    with Recorded(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):  # type: ignore[no-untyped-call]
        results(chunked_attention(q, k, v, False), sources)
    scores = [shape for shape in shapes if len(shape) == 4 and shape[3] == 40 and shape[2] != 8]
    assert scores == [(2, 3, 8, 40)] * 0
    assert (2, 3, 8, 40) in shapes
    assert saved == [q.shape] * 3
    assert chunk_bytes(2, 3, 40) == 3 * 4 * 2 * 3 * 8 * 40
