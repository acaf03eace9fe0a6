"""The accelerator seam: everything that differs between CPU and CUDA lives here."""

from __future__ import annotations

import os

from vim_core.runtime.base import Numeric, Runtime

__all__ = ["Numeric", "Runtime", "create", "resolve_threads"]


def resolve_threads(threads: int) -> int:
    """`run.threads`, with 0 meaning every core this process may use."""
    return threads or len(os.sched_getaffinity(0))


def create(device: str, precision: str, threads: int, rank: int = 0, world: int = 1, local_rank: int = 0) -> Runtime:
    """The runtime of this process; `device` is auto, cpu or cuda.

    Raises:
        ConfigError: CUDA was asked for and is not there.
    """
    import torch

    from vim_core.runtime.cpu import CpuRuntime
    from vim_core.runtime.cuda import CudaRuntime

    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        return CudaRuntime(precision, resolve_threads(threads), rank, world, local_rank)
    return CpuRuntime(precision, resolve_threads(threads), rank, world)
