"""The accelerator seam: one object that tasks ask instead of looking around (contract 10)."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from vim_core.errors import ConfigError

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Numeric:
    """What must be equal for two runs to give the same bits."""

    device: str
    dtype: str
    threads: int
    world: int
    compiled: bool = False

    @property
    def family(self) -> str:
        """A folder name without the number of workers, such as `cpu-bf16-t2`."""
        return f"{self.device}-{self.dtype}-t{self.threads}" + ("-compiled" if self.compiled else "")

    @property
    def name(self) -> str:
        """A folder name, such as `cpu-bf16-t2-w1`; networks through torch.compile add `-compiled`."""
        return f"{self.device}-{self.dtype}-t{self.threads}-w{self.world}" + ("-compiled" if self.compiled else "")

    def record(self) -> dict[str, object]:
        """For manifests."""
        return asdict(self)


class Runtime(ABC):
    """One process of a training job: its device, its rank, its collectives, its precision."""

    kind: str
    compiled = False
    """Whether `compile` compiles; set before the task is built."""
    parallel = "data"
    """How workers share one training: 'data' (each has the whole network) or 'fsdp' (`vim_core.distributed.fsdp`)."""
    lockstep: bool = False
    """Whether every worker must run every operation, even towards a file that only the first one writes."""

    def __init__(self, precision: str, threads: int, rank: int = 0, world: int = 1) -> None:
        self.rank = rank
        self.world = world
        self.threads = threads
        self.dtype = torch.bfloat16 if self._wants_bf16(precision) else torch.float32
        self._mesh: DeviceMesh | None = None

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
        dtype = "bf16" if self.dtype is torch.bfloat16 else "fp32"
        return Numeric(self.kind, dtype, self.threads, self.world, self.compiled)

    @property
    def sharded(self) -> bool:
        """Whether networks are split over several workers, none of which then has a whole one."""
        return self.parallel == "fsdp" and self.world > 1

    def compile(self, network: nn.Module) -> Callable[..., Any]:
        """The network's training pass, through torch.compile where the job asks for it; batches have one shape.

        Raises:
            ConfigError: the device has a compiler of its own, or the network is sharded.
        """
        if not self.compiled:
            return network
        if self.device.type not in ("cpu", "cuda"):
            raise ConfigError(f"compile='on': {self.device.type} compiles every step by itself; set compile=off")
        if self.sharded:
            raise ConfigError("compile='on': not of sharded networks; set compile=off or run.parallel=data")
        return torch.compile(network, dynamic=False)

    def split(self, module: nn.Module, keep: Collection[nn.Parameter] = ()) -> None:
        """Split a network over the workers where `parallel` asks for it and there are several.

        Call it before the optimizer is built; `keep` stays whole on every worker.
        """
        if self.sharded:
            from torch.distributed.device_mesh import init_device_mesh

            from vim_core.distributed import fsdp

            self._mesh = self._mesh or init_device_mesh(self.device.type, (self.world,))
            fsdp.split(module, self._mesh, keep, self.dtype)

    def whole(self, module: Network, device: torch.device | None = None) -> Network | None:
        """The network with all of its weights: itself unless it is sharded.

        Then it is a collective that gives the first worker a copy on `device` (by default this runtime's), the others
        None.
        """
        from vim_core.distributed import fsdp

        return fsdp.whole(module, self.rank == 0, device)  # type: ignore[return-value]

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Matrix products in the job's dtype; weights stay fp32."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype is torch.bfloat16)

    def seed_step(self, seed: int, step: int) -> None:
        """Key all of torch's noise (dropout) by (seed, step, rank)."""
        torch.manual_seed(((seed * 1_000_003 + step) * 65_537 + self.rank) % (1 << 63))

    def place(self, batch: Mapping[str, Tensor], parts: int = 1) -> dict[str, Tensor]:
        """This worker's rows of the batch on its device, laid out so that `microbatches` makes `parts` of them."""
        return {name: value.to(self.device) for name, value in batch.items()}

    def microbatches(self, value: Tensor, parts: int) -> Sequence[Tensor]:
        """Consecutive parts of this worker's rows [b, …] of a batch placed for as many."""
        return value.chunk(parts) if parts > 1 else (value,)

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Rows [b / parts, …] of every microbatch, in the order in which `microbatches` takes them apart again."""
        return torch.cat(list(parts)) if len(parts) > 1 else parts[0]

    def to_host(self, tensor: Tensor) -> Tensor:
        """A whole, contiguous copy on the CPU; the tensor itself where it is one already."""
        return tensor.detach().cpu().contiguous()

    def shard(self, modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]) -> None:  # noqa: B027
        """Split weights and optimizer slots over devices, where this runtime does; called after restoring them."""

    def end_step(self) -> None:  # noqa: B027
        """Mark the end of a training step, where operations are recorded first and run together."""

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

    def control(self, value: Tensor) -> Tensor:
        """Concatenate every worker's rows [N, …] of host numbers in rank order, apart from the training's own data."""
        return self.gather(value.to(self.device)).cpu()

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over the workers, in one flat collective."""
        if self.world == 1:
            return
        # Gradients of sharded networks were averaged by rows as they came up.
        gradients = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
        if not gradients:
            return
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.world
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
