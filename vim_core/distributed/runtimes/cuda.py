"""CUDA: one process a GPU."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor
from torch.profiler import record_function

from vim_core.data.images import as_floats
from vim_core.distributed.products import BF16, CUDA_TF32, HIGH, HIGHEST, products
from vim_core.distributed.runtimes.base import Runtime
from vim_core.errors import ConfigError


class CudaRuntime(Runtime):
    """One process a GPU, NCCL between them; deterministic kernels, so that a resumed run equals a whole one.

    Without `deterministic` cuDNN tries algorithms and takes the fastest. With it torch still has no deterministic
    backward pass of fused attention, and warns once.

    Raises:
        ConfigError: torch sees no GPU.
    """

    kind = "cuda"
    products: Mapping[str, str] = {HIGHEST: "fp32", HIGH: "tf32", BF16: "fp32, convolutions tf32"}
    pins_memory = True

    def __init__(
        self,
        precision: str,
        threads: int,
        rank: int = 0,
        world: int = 1,
        local_rank: int = 0,
        deterministic: bool = True,
    ) -> None:
        if not torch.cuda.is_available():
            raise ConfigError("run.device='cuda': torch sees no GPU here; use run.device=cpu or run.device=auto")
        # Read when cuBLAS starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        self.deterministic = deterministic
        self.device = torch.device("cuda", local_rank)
        torch.cuda.set_device(self.device)
        torch.backends.cudnn.benchmark = not deterministic
        torch.backends.cudnn.deterministic = deterministic
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = CUDA_TF32[HIGHEST]
        major, minor = torch.cuda.get_device_capability(self.device)
        self.hardware = f"sm{major}{minor}x{torch.cuda.get_device_properties(self.device).multi_processor_count}"
        super().__init__(precision, threads, rank, world)

    def lay_out(self, images: Tensor) -> Tensor:
        """See `Runtime`. Weights stay as they are, so that files and optimizers see one format on all devices."""
        return images.contiguous(memory_format=torch.channels_last)

    def draws_beside(self, weights: int) -> bool:
        """True where the copy, a converted one and as much again fit beside the most that was used so far."""
        total = torch.cuda.get_device_properties(self.device).total_memory
        return torch.cuda.max_memory_reserved(self.device) + 3 * weights < 0.95 * total

    def product_precision(self) -> contextlib.AbstractContextManager[None]:
        """As in `Runtime`; outside of it the process is strict."""
        return contextlib.nullcontext() if self.level == HIGHEST else products(self.device, self.level)

    def to_device_ahead(self, batches: Iterable[Mapping[str, Tensor]], parts: int = 1) -> Iterator[dict[str, Tensor]]:
        """Each batch's copy runs on a stream of its own, beside the step before; only its pixels become floats after.

        A batch from page-locked memory makes the host wait for nothing.
        """
        copies = torch.cuda.Stream(self.device)
        waiting: tuple[dict[str, Tensor], torch.cuda.Event] | None = None

        def ready(placed: Mapping[str, Tensor], copied: torch.cuda.Event) -> dict[str, Tensor]:
            steps = torch.cuda.current_stream(self.device)
            steps.wait_event(copied)
            for value in placed.values():
                # Its memory may be used for another batch only after this step.
                value.record_stream(steps)
            return {name: as_floats(value) for name, value in placed.items()}

        for batch in batches:
            with record_function("vim.to_device"), torch.cuda.stream(copies):
                placed = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
                copied = copies.record_event()
            if waiting is not None:
                yield ready(*waiting)
            waiting = placed, copied
        if waiting is not None:
            yield ready(*waiting)

    def synchronize(self) -> None:
        """See `Runtime`."""
        torch.cuda.synchronize(self.device)

    def has_bf16(self) -> bool:
        """True from Ampere on."""
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
