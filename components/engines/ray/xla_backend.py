"""Ray Train for torch_xla: one worker a host, every chip of it in that worker. Ray itself has no such backend.

Ray's own (`use_tpu` with its TorchTrainer) is for torch_tpu with one process a chip; here `DataParallelTrainer` runs
with the backend below, which prepares each worker's environment before anything touches the chips.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ray.train.backend import Backend, BackendConfig

from components.contract.api import Context
from components.engines import topology
from vim_core.errors import ConfigError

START_TIMEOUT_S = 1800
"""For a slice that is still being started; Ray's own limit is 60 s."""
SHUTDOWN_S = 30.0
MEGASCALE_PORT = "8081"


@dataclass
class XlaConfig(BackendConfig):
    """Settings of every worker.

    Attributes:
        platform: PJRT's name of the device, TPU or CPU.
        devices: on CPU the number of virtual devices.
        cache: folder for compiled programs on each host; empty for none.
        slices: number of TPU slices that the workers fill.
    """

    platform: str = "TPU"
    devices: int = 1
    cache: str = ""
    slices: int = 1

    @property
    def backend_cls(self) -> type[XlaBackend]:
        """Called by Ray."""
        return XlaBackend

    def to_dict(self) -> dict[str, Any]:
        """For Ray's dashboard."""
        return asdict(self)


@dataclass(frozen=True)
class TpuHost:
    """A TPU host: its number within its slice, the slice's host names in order, the slice's name."""

    worker_id: str
    hostnames: str
    name: str


def read_tpu_host() -> TpuHost:
    """This host, from the variables that Google's machines and the GKE webhook set."""
    return TpuHost(*(os.environ.get(f"TPU_{key}", "") for key in ("WORKER_ID", "WORKER_HOSTNAMES", "NAME")))


def check_host_order(hosts: Sequence[TpuHost], slices: int) -> None:
    """Check that ranks follow the hosts' own numbers, slice after slice: batch rows go to the devices in this order.

    Args:
        hosts: by rank.
        slices: number of slices of equal size that they fill.

    Raises:
        ConfigError: a variable is missing, a slice is mixed with another or its hosts are out of order.
    """
    size = len(hosts) // slices
    for rank, host in enumerate(hosts):
        if not host.worker_id.isdecimal() or (size > 1 and not host.hostnames):
            raise ConfigError(
                f"worker {rank}: TPU_WORKER_ID={host.worker_id!r} TPU_WORKER_HOSTNAMES={host.hostnames!r}; on GKE "
                "the TPU webhook of KubeRay sets them: is it installed, and was the pod made after it?"
            )
    for first in range(0, len(hosts), size):
        group = hosts[first : first + size]
        ranks = f"workers {first} to {first + size - 1}"
        if len({(host.name, host.hostnames) for host in group}) > 1:
            named = sorted({f"TPU_NAME={host.name!r} ({host.hostnames})" for host in group})
            raise ConfigError(f"{ranks} should be one slice but are of {' and '.join(named)}")
        if size > 1 and len(group[0].hostnames.split(",")) != size:
            raise ConfigError(f"{ranks}: TPU_WORKER_HOSTNAMES={group[0].hostnames!r} does not name {size} hosts")
        ids = [int(host.worker_id) for host in group]
        if ids != list(range(size)):
            raise ConfigError(f"{ranks} have TPU_WORKER_ID={ids}, not in the order of their ranks; start again")


def worker_environment(config: XlaConfig, rank: int, world: int, address: str, port: int) -> dict[str, str]:
    """Environment variables of one worker; `address` and `port` are of rank 0."""
    variables = {
        "PJRT_DEVICE": config.platform,
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
    }
    if config.platform == "CPU":
        variables["CPU_NUM_DEVICES"] = str(config.devices)
    elif "KUBERNETES_SERVICE_HOST" in os.environ:
        # The webhook sets all variables; there may be no metadata server to ask.
        variables["TPU_SKIP_MDS_QUERY"] = "1"
    if config.slices > 1:
        # Set always: a value left from a slice that was replaced makes libtpu wait for it.
        variables |= {
            "MEGASCALE_COORDINATOR_ADDRESS": address,
            "MEGASCALE_PORT": MEGASCALE_PORT,
            "MEGASCALE_NUM_SLICES": str(config.slices),
            "MEGASCALE_SLICE_ID": str(rank // (world // config.slices)),
        }
    return variables


def join_group(variables: dict[str, str]) -> None:
    """In the worker: set the variables and join the control-plane group, over gloo and not over the chips."""
    import torch.distributed as dist

    os.environ.update(variables)
    if not dist.is_initialized():
        dist.init_process_group("gloo", rank=int(variables["RANK"]), world_size=int(variables["WORLD_SIZE"]))


def leave_group() -> None:
    """In the worker: leave the control-plane group."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


class XlaBackend(Backend):
    """Sets up the workers of a torch_xla training, and leaves the group at its end."""

    def on_start(self, worker_group: Any, backend_config: XlaConfig) -> None:  # type: ignore[override]
        """Check the hosts' order, then set every worker's variables and start the control-plane group.

        Raises:
            ConfigError: see `check_host_order`.
        """
        import ray
        from ray.train._internal.utils import get_address_and_port

        from vim_core.training.interruptions import listen

        worker_group.execute(listen)
        if backend_config.platform == "TPU":
            check_host_order(worker_group.execute(read_tpu_host), backend_config.slices)
        address, port = worker_group.execute_single(0, get_address_and_port)
        world = len(worker_group)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank, join_group, worker_environment(backend_config, rank, world, address, port)
                )
                for rank in range(world)
            ]
        )

    def on_shutdown(self, worker_group: Any, backend_config: XlaConfig) -> None:  # type: ignore[override]
        """Leave the group; a worker that hangs in a collective is not waited for, Ray ends it."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(worker_group.execute_async(leave_group), timeout=SHUTDOWN_S)


def xla_trainer(
    worker: Callable[[dict[str, Any]], None], arguments: dict[str, Any], ctx: Context, run_config: Any, threads: int
) -> Any:
    """Ray's trainer for `run.device=xla`, its scaling checked before anything starts.

    The device is a TPU unless the environment has PJRT_DEVICE=CPU; then CPU_NUM_DEVICES is the number of devices.

    Args:
        worker, arguments: run as worker(arguments) on every host; `arguments["job"]` is a `TrainingJob`.
        ctx: the component's context.
        run_config: Ray Train's `RunConfig`.
        threads: cores of each host's worker.

    Raises:
        ConfigError: the topology does not fit the settings.
    """
    from ray.train import ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    run, batch = ctx.run, arguments["job"].config.batch
    platform, devices = os.environ.get("PJRT_DEVICE", "TPU"), int(os.environ.get("CPU_NUM_DEVICES", "1"))
    slices = 1
    if platform == "CPU":
        scaling = topology.cpu_scaling(run, batch, threads, devices)
    elif platform == "TPU":
        scaling = topology.tpu_scaling(run, batch, threads)
        slices = topology.resolve_slices(run)[1]
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_TIMEOUT_S))
    else:
        raise ConfigError(f"PJRT_DEVICE={platform!r}: run.device=xla works on TPU, and on CPU for tests")
    return DataParallelTrainer(
        worker,
        train_loop_config=arguments,
        backend_config=XlaConfig(platform, devices, run.compile_cache, slices),
        scaling_config=ScalingConfig(**scaling),
        run_config=run_config,
    )
