"""Device, precision, collectives and sharding of one worker: the interface, and CPU (contract 10)."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.profiler import record_function

from vim_core.data.images import as_floats
from vim_core.distributed.compiled_blocks import compile_blocks
from vim_core.distributed.gradient_buckets import GradientBuckets
from vim_core.distributed.numeric import Numeric
from vim_core.distributed.products import BF16, HIGH, HIGHEST
from vim_core.errors import ConfigError

Network = TypeVar("Network", bound=nn.Module)


class Runtime(ABC):
    """One worker of a training job: its device, rank, precision and collectives."""

    kind: str
    device: torch.device
    """Device of this worker's tensors."""
    products: Mapping[str, str] = {HIGHEST: "fp32", HIGH: "fp32", BF16: "fp32"}
    """How the device multiplies fp32 tensors, by level: see `Numeric.products`."""
    hardware = ""
    """See `Numeric.hardware`."""
    deterministic = True
    """The same bits in every run; without it only CUDA is faster."""
    compiled = False
    """`compile` uses torch.compile; set before the task is built."""
    parallel = "data"
    """'data': each worker has the whole network; 'fsdp': it is sharded over them (`vim_core.distributed.fsdp`)."""
    pins_memory = False
    """Batches are better kept in page-locked memory, from which copies run beside the steps."""
    shards = 0
    """With 'fsdp' the neighbouring workers that share one copy, such as those of a node; 0 for all of them."""
    lockstep: bool = False
    """Every worker must run every operation, also for a file that only rank 0 writes."""

    def __init__(self, precision: str, threads: int, rank: int = 0, world: int = 1) -> None:
        self.rank = rank
        self.world = world
        self.threads = threads
        self.level = self.level_of(precision)
        self.dtype = torch.bfloat16 if self.level == BF16 else torch.float32
        self._mesh: DeviceMesh | None = None
        self._buckets: WeakKeyDictionary[nn.Module, GradientBuckets] = WeakKeyDictionary()

    @abstractmethod
    def has_bf16(self) -> bool:
        """True if the hardware multiplies bf16 faster than fp32."""

    def level_of(self, precision: str) -> str:
        """The level of `products` for the setting `precision`."""
        if precision == "bf16" or (precision == "auto" and self.has_bf16()):
            return BF16
        return HIGH if precision in ("high", "tf32") else HIGHEST

    @property
    def numeric(self) -> Numeric:
        """The numeric class of this job."""
        dtype, used = "bf16" if self.dtype is torch.bfloat16 else "fp32", self.products[self.level]
        bits = self.compiled, used, self.hardware, self.deterministic
        return Numeric(self.kind, dtype, self.threads, self.world, *bits)

    @property
    def local_world(self) -> int:
        """Workers on this host, as whoever started them says (`LOCAL_WORLD_SIZE`); else all, to be safe."""
        return int(os.environ.get("LOCAL_WORLD_SIZE") or self.world)

    @property
    def sharded(self) -> bool:
        """True if networks are sharded over several workers, none of which has a whole one."""
        return self.parallel == "fsdp" and self.world > 1

    def compile(self, network: nn.Module) -> Callable[..., Any]:
        """The network's forward pass, through torch.compile where `compiled` is set; batches have one shape.

        Several workers compile each block by itself, see `compile_blocks`.

        Raises:
            ConfigError: the device has a compiler of its own.
        """
        if not self.compiled:
            return network
        if self.device.type not in ("cpu", "cuda"):
            raise ConfigError(f"compile='on': {self.device.type} compiles every step by itself; set compile=off")
        if self.world > 1 and compile_blocks(network):
            return network
        return torch.compile(network, dynamic=False)

    def convolve(self, network: nn.Module) -> Callable[..., Tensor]:
        """The forward pass of a convolutional network on images [B, C, H, W], compiled as a whole where that is set.

        Not by blocks, which would hold for every pass through the network: no compiled one can be differentiated twice.
        """
        forward = torch.compile(network, dynamic=False) if self.compiled else network
        return lambda *images: forward(*(self.lay_out(part) for part in images))

    def lay_out(self, images: Tensor) -> Tensor:
        """The images [B, C, H, W] in the memory format that the device convolves fastest; convolutions keep it."""
        return images

    def apply_fsdp(self, module: nn.Module, keep: Collection[nn.Parameter] = ()) -> None:
        """Shard a network over the workers where `parallel` is 'fsdp' and there are several.

        Call it before the optimizer is built; the parameters in `keep` are replicated.

        Raises:
            ConfigError: see `fsdp.make_mesh`.
        """
        if self.sharded:
            from vim_core.distributed import fsdp

            self._mesh = self._mesh or fsdp.make_mesh(self.device.type, self.world, self.shards)
            fsdp.apply_fsdp(module, self._mesh, keep, self.dtype)

    def full_network(self, module: Network, device: torch.device | None = None) -> Network | None:
        """The network with all of its weights: itself unless it is sharded.

        A collective for a sharded one: rank 0 gets a copy on `device` (by default this runtime's), the others None.
        """
        from vim_core.distributed import fsdp

        return fsdp.full_network(module, self.rank == 0, device)  # type: ignore[return-value]

    def product_precision(self) -> contextlib.AbstractContextManager[None]:
        """A scope for training steps, in which products of fp32 tensors have the job's precision."""
        return contextlib.nullcontext()

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Matrix products in the job's dtype; weights stay fp32."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype is torch.bfloat16)

    def seed_step(self, seed: int, step: int) -> None:
        """Key all of torch's noise (dropout) by (seed, step, rank)."""
        torch.manual_seed(((seed * 1_000_003 + step) * 65_537 + self.rank) % (1 << 63))

    def to_device(self, batch: Mapping[str, Tensor], parts: int = 1) -> dict[str, Tensor]:
        """This worker's rows of the batch on its device, laid out for `microbatches` of as many `parts`.

        Pixels uint8 travel as they are and become float32 in [0, 1] there.
        """
        return {name: as_floats(value.to(self.device)) for name, value in batch.items()}

    def send(self, value: Tensor) -> Tensor:
        """A tensor of the host on this worker's device; the host does not wait for it."""
        value = value.pin_memory() if self.pins_memory else value
        return value.to(self.device, non_blocking=self.pins_memory)

    def to_device_ahead(self, batches: Iterable[Mapping[str, Tensor]], parts: int = 1) -> Iterator[dict[str, Tensor]]:
        """`to_device` of each batch; where copies run beside the steps, of the next one before it is asked for."""
        for batch in batches:
            with record_function("vim.to_device"):
                placed = self.to_device(batch, parts)
            yield placed

    def microbatches(self, value: Tensor, parts: int) -> Sequence[Tensor]:
        """Consecutive parts [b / parts, …] of this worker's rows [b, …], as `to_device` laid them out."""
        return value.chunk(parts) if parts > 1 else (value,)

    def join_microbatches(self, parts: Sequence[Tensor]) -> Tensor:
        """Inverse of `microbatches`: rows [b / parts, …] of every microbatch as one tensor [b, …]."""
        return torch.cat(list(parts)) if len(parts) > 1 else parts[0]

    def to_host(self, tensor: Tensor) -> Tensor:
        """A whole, contiguous tensor on the CPU; the tensor itself where it is one already."""
        return tensor.detach().cpu().contiguous()

    def draws_beside(self, weights: int) -> bool:
        """True where pictures of a network of so many bytes are drawn in a thread of their own, from a copy.

        Not on CPU, where the thread would take the cores of the training.
        """
        return False

    def own_parts(self, tensor: Tensor) -> list[tuple[Tensor, tuple[slice, ...]]] | None:
        """The parts of a tensor that this worker's devices have to save, on the CPU, with their places in it.

        None where the device does not split it by itself: then each worker has the tensor or its `DTensor`.
        """
        return None

    def mark_sharding(self, modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]) -> None:  # noqa: B027
        """Shard weights and optimizer slots over devices (XLA only); called after restoring them."""

    def map_rows(self, function: Callable[[Tensor], Tensor], value: Tensor, rows: int) -> Tensor:
        """Apply a function to `rows` rows of a tensor [b, …] after another, the last ones with rows of zeros added.

        The function maps [rows, …] to [rows, …], each row by itself. Nothing is read by the host.
        """
        parts = []
        for chunk in value.split(rows):
            missing = rows - len(chunk)
            padded = torch.cat([chunk, chunk.new_zeros(missing, *chunk.shape[1:])]) if missing else chunk
            parts.append(function(padded)[: len(chunk)])
        return torch.cat(parts)

    def run_now(self, tensors: Sequence[Tensor]) -> None:  # noqa: B027
        """Within a step: let devices that record operations run what these tensors need as a program of its own."""

    def end_step(self) -> None:  # noqa: B027
        """Mark the end of a training step, for devices that record operations and run them together."""

    def synchronize(self) -> None:  # noqa: B027
        """Wait until the device has finished all that it was given; a CPU always has."""

    def compiled_programs(self) -> int:
        """Programs that this process has compiled so far: graphs of torch.compile, or XLA's."""
        dynamo = sys.modules.get("torch._dynamo.utils")
        return 0 if dynamo is None else int(dynamo.counters["stats"]["unique_graphs"])

    def host_reads(self) -> int:
        """Times that XLA has sent values to the host so far; 0 on other devices, whose reads torch's profiler sees."""
        return 0

    def sum(self, value: Tensor) -> Tensor:
        """Sum over all workers; the value itself with one."""
        if self.world > 1:
            with record_function("vim.collectives"):
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
        with record_function("vim.collectives"):
            dist.all_gather(parts, value.contiguous())
        return torch.cat(parts)

    def gather_host(self, value: Tensor) -> Tensor:
        """Concatenate every worker's rows [N, …] of control data on the host, in rank order."""
        return self.gather(value.to(self.device)).cpu() if self.world > 1 else value

    def begin_microbatch(self, network: nn.Module, index: int, parts: int) -> None:
        """Before microbatch `index` of `parts` of the network: gradients only accumulate, unless it is the last."""
        if network in self._buckets:
            self._buckets[network].active = index == parts - 1
        if self.sharded:
            from vim_core.distributed import fsdp

            fsdp.begin_microbatch(network, index, parts)

    def share_text(self, text: str) -> str:
        """Rank 0's text, on every worker."""
        data = torch.tensor(list(text.encode()), dtype=torch.int64)
        length = int(self.gather_host(torch.tensor([len(data)]))[0])
        padded = F.pad(data[:length], (0, max(0, length - len(data))))
        return bytes(self.gather_host(padded)[:length].tolist()).decode()

    def average_gradients(self, network: nn.Module) -> None:
        """Replace the network's gradients by their mean over the workers; call it once a step.

        From the second step on the backward pass has done most of it: see `GradientBuckets`. FSDP2 has averaged the
        gradients of sharded parameters there, too.
        """
        if self.world == 1:
            return
        if network not in self._buckets:
            whole = [p for p in network.parameters() if p.requires_grad and not isinstance(p, DTensor)]
            self._buckets[network] = GradientBuckets(whole, self.world)
        with record_function("vim.collectives"):
            self._buckets[network].finish()


def product_rate(runtime: Runtime, size: int = 1024, seconds: float = 0.3) -> float:
    """Measured rate of square matrix products in the runtime's precision, in GFLOP/s (best of several rounds)."""
    a = torch.randn(size, size, device=runtime.device, dtype=runtime.dtype)
    b = torch.randn(size, size, device=runtime.device, dtype=runtime.dtype)
    best, deadline = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        with runtime.product_precision():
            product = a @ b
        # Run the whole product first: a compiler would compute only the one element that is read.
        runtime.end_step()
        float(product[0, 0])
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


class CpuRuntime(Runtime):
    """gloo between workers; sets torch's thread count explicitly: it is part of the numeric class."""

    kind = "cpu"
    device = torch.device("cpu")

    def __init__(self, precision: str, threads: int, rank: int = 0, world: int = 1) -> None:
        torch.set_num_threads(threads)
        super().__init__(precision, threads, rank, world)

    def has_bf16(self) -> bool:
        """True if this processor has AVX512-BF16 or AMX products (three to four times fp32)."""
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_avx512_bf16_supported()) or bool(
            torch.cpu._is_amx_tile_supported()
        )
