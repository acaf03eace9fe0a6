"""Attention of long sequences on the devices: that of plain torch, without a score matrix; which kernel computes it."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.xla.conftest import DEVICES
from tests.xla.run import device_bytes
from vim_core.distributed import runtimes as seam
from vim_core.distributed.runtimes import xla_attention
from vim_core.distributed.runtimes.base import Runtime
from vim_core.layers.transformer import SHORT_SEQUENCE, Attention, attend

pytestmark = pytest.mark.xla
TOKENS = SHORT_SEQUENCE + 44


def exact(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, **_: Any) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


@pytest.mark.parametrize("causal", [False, True])
def test_values_and_gradients_without_a_whole_score_matrix(xla: Runtime, causal: bool) -> None:
    import torch_xla

    base = {name: torch.randn(8, 2, TOKENS, 8) for name in ("q", "k", "v", "gradient")}
    q, k, v = (base[name].clone().requires_grad_() for name in "qkv")
    out = exact(q, k, v, causal)
    expected = [out, *torch.autograd.grad(out, (q, k, v), base["gradient"])]
    squares = []
    for attention in (attend, exact):
        placed = xla.to_device(base)
        q, k, v = (placed[name].requires_grad_() for name in "qkv")
        out = attention(q, k, v, causal)
        found = [out, *torch.autograd.grad(out, (q, k, v), placed["gradient"])]
        program = torch_xla._XLAC._get_xla_tensors_hlo(found)
        squares.append(len(re.findall(rf"= \w+\[[0-9,]*{TOKENS},{TOKENS}\]", program)))
        xla.end_step()
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.cpu(), other, atol=1e-5, rtol=1e-4)
            assert device_bytes(one) == [other.numel() * 4 // DEVICES] * DEVICES
    assert squares[0] == 0 < squares[1]


def test_bf16_is_that_of_plain_torch(xla: Runtime) -> None:
    torch.manual_seed(0)
    layer, x = Attention(16, 2, causal=True), torch.randn(8, TOKENS, 16)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(x)
    there = layer.to(xla.device)
    with torch.autocast("xla", torch.bfloat16):
        found = there(xla.to_device({"x": x})["x"])
    assert found.dtype is expected.dtype is torch.bfloat16
    torch.testing.assert_close(found.cpu().float(), expected.float(), atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    ("shape", "dtype", "fits"),
    [
        ((8, 16, 1024, 64), torch.bfloat16, True),
        ((4, 16, 1024, 128), torch.bfloat16, True),
        ((8, 16, 1024, 64), torch.float32, False),  # it multiplies in bf16
        ((12, 16, 1024, 64), torch.bfloat16, False),  # three samples on a device
        ((6, 16, 1024, 64), torch.bfloat16, False),
        ((8, 16, 1025, 64), torch.bfloat16, False),  # keys padded and not masked
        ((8, 16, 1536, 64), torch.bfloat16, False),
        ((8, 16, 384, 64), torch.bfloat16, True),
        ((8, 16, 1024, 160), torch.bfloat16, False),
    ],
)
def test_shapes_of_the_tpus_kernel(shape: tuple[int, ...], dtype: torch.dtype, fits: bool) -> None:
    assert xla_attention.kernel_fits(torch.empty(shape, dtype=dtype, device="meta"), DEVICES) is fits


@pytest.mark.parametrize(
    ("jax", "kernel", "said"),
    [
        (True, exact, ""),
        (True, lambda q, k, v, **_: exact(q, k, v), "off by"),  # no mask
        (True, lambda q, k, v, **_: (q + k + v) * torch.nan, "off by nan"),
        (True, lambda *_, **__: 1 / 0, "ZeroDivisionError"),
        (False, exact, r"needs jax \(pip install 'torch_xla\[pallas\]'\)"),
    ],
    ids=["right", "wrong", "nan", "broken", "missing"],
)
def test_the_tpus_kernel_is_used_once_it_has_proved_right(
    xla: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    jax: bool,
    kernel: Any,
    said: str,
) -> None:
    """A TPU is pretended, and so is its kernel."""
    import torch_xla.experimental.custom_kernel as kernels

    calls: list[torch.Size] = []

    def counted(q: Tensor, *args: Any, **fields: Any) -> Tensor:
        calls.append(q.shape)
        out: Tensor = kernel(q, *args, **fields)
        return out

    monkeypatch.setattr(xla_attention, "CHECKED_TOKENS", 128)
    monkeypatch.setattr(kernels, "flash_attention", counted)
    monkeypatch.setattr(xla_attention.importlib.util, "find_spec", lambda name: object() if jax else None)  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING):
        xla_attention.choose(xla.mesh, "tpu")  # type: ignore[attr-defined]
    assert bool(caplog.records) is bool(said)
    assert re.search(f"attention runs in chunks.*{said}" if said else "", caplog.text)
    calls.clear()
    q = torch.randn(DEVICES, 2, 384, 8, dtype=torch.bfloat16).to(xla.device)
    attend(q, q, q, True)
    attend(q.float(), q.float(), q.float(), True)
    assert calls == ([q.shape] if not said else [])
    monkeypatch.undo()
    seam.create("xla", "fp32", threads=1)
    attend(q, q, q, True)
    assert len(calls) == (not said), "a CPU has no such kernel"
