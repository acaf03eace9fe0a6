"""CPU: gloo between workers, bf16 where the processor multiplies it."""

from __future__ import annotations

import torch

from vim_core.distributed.runtimes.base import Runtime


def cpu_has_bf16() -> bool:
    """True if this processor has AVX512-BF16 or AMX products (three to four times fp32)."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_avx512_bf16_supported()) or bool(
        torch.cpu._is_amx_tile_supported()
    )


class CpuRuntime(Runtime):
    """Sets torch's thread count explicitly: it is part of the numeric class."""

    kind = "cpu"

    def __init__(self, precision: str, threads: int, rank: int = 0, world: int = 1) -> None:
        torch.set_num_threads(threads)
        super().__init__(precision, threads, rank, world)

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def has_bf16(self) -> bool:
        """See `cpu_has_bf16`."""
        return cpu_has_bf16()
