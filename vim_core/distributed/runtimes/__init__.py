"""Runtimes: everything that differs between CPU, CUDA and XLA."""

from __future__ import annotations

import os

import torch

from vim_core.distributed.numeric import Numeric
from vim_core.distributed.runtimes.base import CpuRuntime, Runtime
from vim_core.distributed.runtimes.cuda import CudaRuntime

__all__ = ["Numeric", "Runtime", "create", "resolve_threads"]


def resolve_threads(threads: int) -> int:
    """Number of threads of `run.threads`, where 0 means every core that this process may use."""
    return threads or len(os.sched_getaffinity(0))


def create(
    device: str,
    precision: str,
    threads: int,
    rank: int = 0,
    world: int = 1,
    local_rank: int = 0,
    fsdp: int = 0,
    compile_cache: str = "",
    deterministic: bool = True,
) -> Runtime:
    """The runtime of this process; `device` is auto (CUDA where there is a GPU, else CPU), cpu, cuda or xla.

    Args:
        fsdp, compile_cache: `run.fsdp` and `run.compile_cache`, which only XLA reads.
        deterministic: `run.deterministic`, which only CUDA reads.

    Raises:
        ConfigError: CUDA or XLA is requested and not available.
    """
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        return CudaRuntime(precision, resolve_threads(threads), rank, world, local_rank, deterministic)
    if device == "xla":
        from vim_core.distributed.runtimes.xla import XlaRuntime

        return XlaRuntime(precision, resolve_threads(threads), rank, world, fsdp, compile_cache)
    return CpuRuntime(precision, resolve_threads(threads), rank, world)
