"""XLA: one process per host drives all its devices; the compiler splits one program over the devices of every host.

Only this file and those beside it whose names begin so import torch_xla. Under SPMD a tensor is the global one wherever
its shards are: the loss is the mean over the global batch, so the collectives of the other runtimes are the identity
here, and every host must run the same operations in the same order.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vim_core.distributed import spmd as sharding
from vim_core.distributed.numeric import Numeric
from vim_core.distributed.products import BF16, HIGH, HIGHEST, register
from vim_core.distributed.runtimes import xla_attention, xla_shards
from vim_core.distributed.runtimes.base import Runtime
from vim_core.distributed.spmd import DATA, FSDP, Spec
from vim_core.errors import ConfigError

PRECISION = {HIGHEST: "highest", HIGH: "high", BF16: "default"}
"""torch_xla's names of the levels: on TPUs six, three and one bf16 product for every product of fp32 numbers."""


class XlaRuntime(Runtime):
    """Every device of every host as one mesh of `data` x `fsdp`; the batch is split over both, weights over `fsdp`.

    Args:
        precision: fp32, high, bf16 or auto.
        threads: of the host's own work.
        rank, world: this host and the number of hosts.
        fsdp: devices that one copy of the weights is split over; 0 for all of them.
        cache: folder that keeps compiled programs between runs; empty for none. Local to each host.

    Raises:
        ConfigError: torch_xla is missing or the hosts that it sees are not the workers that were started; `fsdp` does
            not divide the devices; torch_tpu, which claims the same chips, is installed as well.
    """

    kind = "xla"

    def __init__(
        self, precision: str, threads: int, rank: int = 0, world: int = 1, fsdp: int = 0, cache: str = ""
    ) -> None:
        if importlib.util.find_spec("torch_xla") is None:
            raise ConfigError(
                "run.device='xla': torch_xla is not installed here (pip install 'vim-image-modeling[tpu]'); use "
                "run.device=cpu or run.device=auto"
            )
        if importlib.util.find_spec("torch_tpu") is not None:
            raise ConfigError(
                "run.device='xla': torch_tpu is installed beside torch_xla and both claim the chips; remove torch_tpu"
            )
        # Read at import. Hides the compiler's note on its future partitioner, once per program.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import torch_xla
        import torch_xla.distributed.spmd as spmd
        import torch_xla.runtime as xr

        torch.set_num_threads(threads)
        self.platform = str(xr.device_type()).lower()
        if self.platform == "tpu":
            # Such as v4-32.
            self.hardware = os.environ.get("TPU_ACCELERATOR_TYPE", "").partition("-")[0]
            self.products = {HIGHEST: "bf16x6", HIGH: "bf16x3", BF16: "bf16"}
        level = self.level_of(precision)
        if cache and "XLA_PERSISTENT_CACHE_PATH" not in os.environ:
            # One folder a precision, because a program's key does not depend on it.
            cache = os.path.join(cache, PRECISION[level])
            os.makedirs(cache, exist_ok=True)
            xr.initialize_cache(cache)
        if not xr.is_spmd():
            xr.use_spmd()
        register("xla", _products)
        _set_precision(level)
        self.device = torch_xla.device()  # the virtual device of all devices
        # With several hosts even reading a sharded tensor is a program of all of them.
        self.lockstep = world > 1
        self.devices = int(xr.global_runtime_device_count())
        self.mesh_sizes = mesh_sizes(self.devices, fsdp)
        self.mesh = spmd.Mesh(list(range(self.devices)), tuple(self.mesh_sizes.values()), sharding.AXES)
        if world != xr.process_count():
            raise ConfigError(
                f"{world} worker(s) were started but torch_xla sees {xr.process_count()} host process(es): start one "
                "worker per host (run.workers), and on CPU one in all"
            )
        self._white: Tensor | None = None
        super().__init__(precision, threads, rank if world == 1 else int(xr.process_index()), world)
        xla_attention.choose(self.mesh, self.platform)

    @property
    def local_world(self) -> int:
        """One: a process drives all devices of its host."""
        return 1

    def has_bf16(self) -> bool:
        """True on TPUs."""
        return self.platform == "tpu"

    @property
    def numeric(self) -> Numeric:
        """The platform and the number of devices decide the bits; host threads do not."""
        dtype = "bf16" if self.dtype is torch.bfloat16 else "fp32"
        device, used = f"{self.kind}-{self.platform}", self.products[self.level]
        return Numeric(device, dtype, 0, self.devices, products=used, hardware=self.hardware)

    def seed_step(self, seed: int, step: int) -> None:
        """Key device noise by (seed, step): equal on every host, because they run one program together."""
        import torch_xla.core.xla_model as xm

        value = ((seed * 1_000_003 + step) * 65_537) % (1 << 63)
        torch.manual_seed(value)
        # 2 and up: torch_xla writes 0 and 1 into the program as constants instead of passing them in.
        xm.set_rng_state(2 + value % ((1 << 31) - 2), str(self.device))

    def sum(self, value: Tensor) -> Tensor:
        """The value or the rows [N, …], which are the global ones already."""
        return value

    mean = gather = sum

    def gather_host(self, value: Tensor) -> Tensor:
        """Every host's rows, through a gloo group."""
        return super().gather(value)

    def apply_fsdp(self, module: nn.Module, keep: Collection[nn.Parameter] = ()) -> None:
        """Does nothing: `mark_sharding` shards weights over the devices.

        Raises:
            ConfigError: FSDP2 was asked for, which is not XLA's.
        """
        if self.parallel == "fsdp":
            raise ConfigError("run.parallel='fsdp': is for CPU and CUDA; with run.device=xla set run.fsdp instead")

    def average_gradients(self, network: nn.Module) -> None:
        """Does nothing: gradients are those of the global loss."""

    def to_device(self, batch: Mapping[str, Tensor], parts: int = 1) -> dict[str, Tensor]:
        """This host's rows [b, …] on the devices, sharded along the first dimension.

        Every device holds its share of each microbatch, one after the other, so that taking one moves nothing between
        devices, and each is a consecutive part of this host's rows.

        Raises:
            ConfigError: devices and microbatches do not divide the batch.
        """
        import torch_xla.core.xla_model as xm
        import torch_xla.distributed.spmd as spmd

        placed = {}
        for name, value in batch.items():
            rows = value.shape[0] * self.world
            if rows % self.devices:
                raise ConfigError(f"batch={rows}: not divisible by {self.devices} XLA devices")
            if rows % (self.devices * parts):
                raise ConfigError(
                    f"accumulate={parts}: makes parts of {rows // parts} samples of batch={rows}, not divisible by "
                    f"{self.devices} XLA devices; use a smaller number or a larger batch"
                )
            if parts > 1:
                value = value.unflatten(0, (parts, self.devices // self.world, -1)).transpose(0, 1).flatten(0, 2)
            split = spmd.ShardingSpec(self.mesh, _rows(value.ndim), minibatch=self.world > 1)
            rows_on_device = xm.send_cpu_data_to_device([value], self.device, split)[0]
            placed[name] = self._as_floats(rows_on_device) if value.dtype is torch.uint8 else rows_on_device
        return placed

    def _as_floats(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 as float32 in [0, 1]; divided by a value that the compiler does not know, or it multiplies."""
        if self._white is None:
            self._white = torch.tensor(255.0).to(self.device)
        return pixels.to(torch.float32) / self._white

    def microbatches(self, value: Tensor, parts: int) -> Sequence[Tensor]:
        """Microbatches [B / parts, …] of the batch's rows [B, …], each made of all devices' shares."""
        if parts == 1:
            return (value,)
        apart = value.unflatten(0, (self.devices, parts, -1))
        return [apart[:, part].flatten(0, 1) for part in range(parts)]

    def join_microbatches(self, parts: Sequence[Tensor]) -> Tensor:
        """Inverse of `microbatches`."""
        if len(parts) == 1:
            return parts[0]
        return torch.stack([part.unflatten(0, (self.devices, -1)) for part in parts], dim=1).flatten(0, 2)

    def map_rows(self, function: Callable[[Tensor], Tensor], value: Tensor, rows: int) -> Tensor:
        """As elsewhere, but all devices work on each chunk, and each chunk is a run of one and the same program.

        `value` is laid out by `to_device`. A chunk takes the same number of rows from every device, at least one. In
        the program of the training step, every chunk would be compiled again.
        """
        import torch_xla.distributed.spmd as spmd

        apart = value.unflatten(0, (self.devices, -1))  # [devices, n, …]
        own = apart.shape[1]
        share = min(own, -(-rows // self.devices))
        chunks = []
        for part in apart.split(share, dim=1):
            missing = share - part.shape[1]
            if missing:
                part = torch.cat([part, part.new_zeros(self.devices, missing, *part.shape[2:])], dim=1)
            chunk = part.flatten(0, 1)  # [devices * share, …]
            spmd.mark_sharding(chunk, self.mesh, _rows(chunk.ndim))
            chunks.append(chunk)
        # Cut in a program of its own: else where a chunk begins would be a constant of its program.
        _run_recorded(chunks)
        results = []
        for chunk in chunks:
            result = function(chunk)
            _run_recorded([result])
            results.append(result.unflatten(0, (self.devices, -1)))
        return torch.cat(results, dim=1)[:, :own].flatten(0, 1)

    def to_host(self, tensor: Tensor) -> Tensor:
        """A whole copy on the CPU; with several hosts all of them call it for a split tensor. Compiles nothing."""
        return xla_shards.to_host(tensor.detach(), self.world)

    def draws_beside(self, weights: int) -> bool:
        """True: on the host, so that no program of the devices changes and they do not wait."""
        return True

    def own_parts(self, tensor: Tensor) -> list[tuple[Tensor, tuple[slice, ...]]] | None:
        """See `Runtime` and `xla_shards.own_parts`."""
        return xla_shards.own_parts(tensor.detach())

    def synchronize(self) -> None:
        """See `Runtime`."""
        import torch_xla.core.xla_model as xm

        xm.wait_device_ops()

    def compiled_programs(self) -> int:
        """Programs that torch_xla has compiled so far in this process."""
        return _samples("CompileTime")

    def host_reads(self) -> int:
        """See `Runtime`."""
        return _samples("TransferFromDeviceTime")

    def run_now(self, tensors: Sequence[Tensor]) -> None:
        """See `Runtime`."""
        _run_recorded(list(tensors))

    def end_step(self) -> None:
        """Run the operations recorded since the last call as one program."""
        send()

    def mark_sharding(self, modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]) -> None:
        """Shard weights, optimizer slots and the blocks' activations over the mesh by the rules of `spmd`.

        Call it after restoring a checkpoint, which makes whole tensors.

        Raises:
            ConfigError: see `sharding.resolve` and `sharding.check_divisible`.
        """
        import torch_xla.distributed.spmd as spmd

        def along_the_batch(block: nn.Module, inputs: object, output: Tensor) -> Tensor:
            # Not the discriminator's maps: R1 differentiates them twice, a sharding mark only once.
            if output.ndim != 3 or output.shape[0] % self.devices or output.device.type != "xla":
                return output
            marked: Tensor = spmd.mark_sharding_with_gradients(output, self.mesh, _rows(output.ndim))
            return marked

        specs: dict[Tensor, Spec] = {}
        for module in modules.values():
            named = dict(module.named_parameters())
            by_name = sharding.specs_of(module)
            sharding.check_divisible({name: p.shape for name, p in named.items()}, by_name, self.mesh_sizes)
            specs |= {parameter: by_name[name] for name, parameter in named.items()}
            # Buffers too: else each program would lay them out in its own way and the next be compiled anew.
            specs |= {buffer: (None,) * buffer.ndim for buffer in module.buffers()}
            for name, block in module.named_modules():
                if sharding.BLOCK.fullmatch(name) and not hasattr(block, "_vim_split"):
                    block.register_forward_hook(along_the_batch)
                    block._vim_split = True
        slots = [
            pair
            for optimizer in optimizers.values()
            for pair in sharding.optimizer_specs(optimizer, specs, self.mesh_sizes)
        ]
        for tensor, spec in [*specs.items(), *slots]:
            spmd.clear_sharding(tensor)
            spmd.mark_sharding(tensor, self.mesh, spec)
        self.end_step()


def send() -> None:
    """Run the operations recorded since the last call as one program, without waiting for it."""
    import torch_xla

    torch_xla.sync()


def _run_recorded(tensors: list[Tensor]) -> None:
    """Run what these tensors need as one program, without waiting for it; the step goes on, and so does its noise."""
    import torch_xla

    torch_xla._XLAC._xla_sync_multi(tensors, devices=[], wait=False)


@contextlib.contextmanager
def _products(level: str) -> Iterator[None]:
    """A scope of `products` that counts for what is recorded and run inside: torch_xla compiles by the present value.

    A program's key does not depend on it, so no program may be used at two precisions.
    """
    import torch_xla

    before = torch_xla._XLAC._xla_get_mat_mul_precision()
    _set_precision(level)
    try:
        yield
    finally:
        torch_xla._XLAC._xla_set_mat_mul_precision(before)


def _set_precision(level: str) -> None:
    import torch_xla

    # Not by torch_xla.backends, which logs a warning at every change.
    torch_xla._XLAC._xla_set_mat_mul_precision(PRECISION[level])


def recomputed(function: Callable[..., Any], *args: Any) -> Any:
    """Activation checkpointing for XLA: run a function of tensors now, and again in the backward pass.

    torch_xla's own puts a barrier before the second run, else the compiler would merge both; with a module's method its
    weights pass the barrier too, so that they are gathered again. Dropout draws what it drew in the first run. Only for
    `backward`, not for `torch.autograd.grad`.
    """
    from torch_xla.utils.checkpoint import checkpoint

    if not any(isinstance(arg, Tensor) and arg.requires_grad for arg in args):
        # No input needs a gradient (a frozen part before): torch_xla's would cut off the weights' own gradients.
        return function(*args)
    return checkpoint(function, *args)


def _samples(metric: str) -> int:
    """Number of times that torch_xla has recorded a metric so far."""
    import torch_xla.debug.metrics as metrics

    data = metrics.metric_data(metric)
    return int(data[0]) if data else 0


def mesh_sizes(devices: int, fsdp: int) -> dict[str, int]:
    """Devices along each axis; `fsdp=0` splits one copy of the weights over all.

    Raises:
        ConfigError: `fsdp` does not divide the devices.
    """
    fsdp = fsdp or devices
    if devices % fsdp:
        raise ConfigError(f"run.fsdp={fsdp}: does not divide the {devices} XLA devices")
    return {DATA: devices // fsdp, FSDP: fsdp}


def _rows(dimensions: int) -> tuple[tuple[str, ...] | None, ...]:
    return (sharding.AXES, *(None,) * (dimensions - 1))
