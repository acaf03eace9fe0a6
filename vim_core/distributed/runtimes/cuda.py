"""CUDA: one process a GPU, NCCL between them."""

from __future__ import annotations

import torch

from vim_core.distributed.runtimes.base import Runtime
from vim_core.errors import ConfigError


class CudaRuntime(Runtime):
    """Uses the GPU that is visible to this process; deterministic kernels, so that a resumed run equals a whole one.

    Raises:
        ConfigError: torch sees no GPU.
    """

    kind = "cuda"

    def __init__(self, precision: str, threads: int, rank: int = 0, world: int = 1, local_rank: int = 0) -> None:
        if not torch.cuda.is_available():
            raise ConfigError("run.device='cuda': torch sees no GPU here; use run.device=cpu or run.device=auto")
        self._device = torch.device("cuda", local_rank)
        torch.cuda.set_device(self._device)
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        super().__init__(precision, threads, rank, world)

    @property
    def device(self) -> torch.device:
        """This process's GPU."""
        return self._device

    def has_bf16(self) -> bool:
        """True from Ampere on."""
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
