"""Attention of long sequences on XLA: the TPU's own kernel where it fits and has proved right, else in chunks."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vim_core.distributed.spmd import AXES
from vim_core.layers.chunked_attention import chunked_attention

log = logging.getLogger(__name__)
Kernel = Callable[..., Tensor]

TOLERANCE = 0.05
"""Largest difference of outputs and gradients of order one that bf16 explains."""

CHECKED_TOKENS = 1024
"""Length of the sequences that the kernel is checked on: one of its largest blocks."""


@dataclass
class _Choice:
    """The kernel of this process and the mesh that it runs on; None for chunks."""

    kernel: Kernel | None = None
    mesh: Any = None


_choice = _Choice()


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Scaled dot-product attention over q, k, v [B, H, T, d], without any [B, H, T, T]; once differentiable."""
    if _choice.kernel is None or not kernel_fits(q, int(_choice.mesh.size())):
        return chunked_attention(q, k, v, causal)
    return _by_kernel(_choice.kernel, _choice.mesh, q, k, v, causal)


def kernel_fits(q: Tensor, devices: int) -> bool:
    """True if torch_xla's flash attention is exact enough for queries [B, H, T, d], and computes such shapes.

    It multiplies in bf16. Its blocks are of two samples and up to 1,024 tokens, and it pads keys with zeros that it
    does not mask (torch_xla 2.9, `experimental/custom_kernel.py`); a head is narrower than 128 or a multiple of it.
    """
    batch, _, tokens, width = q.shape
    share = batch // devices
    return (
        q.dtype is torch.bfloat16
        and batch % devices == 0
        and (share == 1 or share % 2 == 0)
        and tokens % (512 if tokens > 512 else 128) == 0
        and tokens % min(1024, tokens) == 0
        and (width < 128 or width % 128 == 0)
    )


def choose(mesh: Any, platform: str) -> None:
    """Use the kernel on a TPU, after a comparison with `chunked_attention` there; the log says why where it is not.

    Every host calls it at the same time: the comparison is a program of all of them.
    """
    _choice.kernel, _choice.mesh = None, mesh
    if platform != "tpu":
        return
    if importlib.util.find_spec("jax") is None:
        log.warning("attention runs in chunks: the TPU's own kernel needs jax (pip install 'torch_xla[pallas]')")
        return
    try:
        from torch_xla.experimental.custom_kernel import flash_attention

        difference = largest_difference(flash_attention, mesh)
    except Exception as error:
        log.warning("attention runs in chunks: the TPU's own kernel failed: %s: %s", type(error).__name__, error)
        return
    if not difference < TOLERANCE:
        log.warning("attention runs in chunks: the TPU's own kernel is off by %.3g in its check", difference)
        return
    _choice.kernel = flash_attention


def largest_difference(kernel: Kernel, mesh: Any) -> float:
    """Between the kernel's and `chunked_attention`'s outputs and gradients, causal and not, on random bf16 tensors."""
    import torch_xla

    generator = torch.Generator().manual_seed(0)
    shape = 2 * int(mesh.size()), 1, CHECKED_TOKENS, 64
    base = [torch.randn(shape, generator=generator).bfloat16().to(torch_xla.device()) for _ in range(4)]
    worst = 0.0
    for causal in (False, True):
        results = []
        for own in (True, False):
            q, k, v = (value.detach().clone().requires_grad_() for value in base[:3])
            out = chunked_attention(q, k, v, causal) if own else _by_kernel(kernel, mesh, q, k, v, causal)
            results.append([out.detach(), *torch.autograd.grad(out, (q, k, v), base[3])])
        for one, other in zip(*results, strict=True):
            # On the host: the devices' maximum loses what is not a number.
            gap = (one.float() - other.float()).cpu().abs().max()
            worst = float(torch.maximum(gap, torch.tensor(worst)))
    return worst


def _by_kernel(kernel: Kernel, mesh: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    split = (AXES, None, None, None)
    return kernel(q, k, v, causal=causal, sm_scale=q.shape[3] ** -0.5, partition_spec=split, mesh=mesh)
