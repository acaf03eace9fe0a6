"""The accelerator seam: one object that tasks ask instead of looking around (contract 10)."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Numeric:
    """What must be equal for two runs to give the same bits."""

    device: str
    dtype: str
    threads: int
    world: int

    @property
    def name(self) -> str:
        """A folder name, such as `cpu-bf16-t2-w1`."""
        return f"{self.device}-{self.dtype}-t{self.threads}-w{self.world}"

    def record(self) -> dict[str, object]:
        """For manifests."""
        return asdict(self)


class Runtime(ABC):
    """One process of a training job: its device, its rank, its collectives, its precision."""

    kind: str

    def __init__(self, precision: str, threads: int, rank: int = 0, world: int = 1) -> None:
        self.rank = rank
        self.world = world
        self.threads = threads
        self.dtype = torch.bfloat16 if self._wants_bf16(precision) else torch.float32

    def _wants_bf16(self, precision: str) -> bool:
        return precision == "bf16" or (precision == "auto" and self.has_bf16())

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where tensors of this process live."""

    @abstractmethod
    def has_bf16(self) -> bool:
        """Whether the hardware multiplies bf16 faster than fp32."""

    @property
    def numeric(self) -> Numeric:
        """The numeric class of this job."""
        return Numeric(self.kind, "bf16" if self.dtype is torch.bfloat16 else "fp32", self.threads, self.world)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Matrix products in the job's dtype; weights stay fp32."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype is torch.bfloat16)

    def seed_step(self, seed: int, step: int) -> None:
        """Key all of torch's noise (dropout) by (seed, step, rank)."""
        torch.manual_seed(((seed * 1_000_003 + step) * 65_537 + self.rank) % (1 << 63))

    def sum(self, value: Tensor) -> Tensor:
        """Sum over all workers; the value itself with one."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def mean(self, value: Tensor) -> Tensor:
        """Mean over all workers."""
        return self.sum(value) / self.world if self.world > 1 else value

    def gather(self, value: Tensor) -> Tensor:
        """Concatenate every worker's rows [N, …] in rank order."""
        if self.world == 1:
            return value
        parts = [torch.empty_like(value) for _ in range(self.world)]
        dist.all_gather(parts, value.contiguous())
        return torch.cat(parts)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over the workers, in one flat collective."""
        if self.world == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.world
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
