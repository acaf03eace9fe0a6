"""How fast this machine multiplies matrices: the yardstick beside every training figure."""

from __future__ import annotations

import time

import torch

from vim_core.distributed.runtimes.base import Runtime


def product_rate(runtime: Runtime, size: int = 1024, seconds: float = 0.3) -> float:
    """Measured rate of square matrix products in the runtime's dtype, in GFLOP/s (best of several rounds)."""
    a = torch.randn(size, size, device=runtime.device, dtype=runtime.dtype)
    b = torch.randn(size, size, device=runtime.device, dtype=runtime.dtype)
    best, deadline = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        product = a @ b
        # Run as a whole first: a compiler would compute only the one element that is read.
        runtime.end_step()
        float(product[0, 0])
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9
