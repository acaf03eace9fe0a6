"""TPU v4 slices: chips and hosts of a topology, and Ray's scaling arguments; every mistake is found before launch.

A v4 host has 4 chips, and each chip is one XLA device (its two cores work as one). `v4-32` counts cores: 16 chips,
4 hosts, topology 2x2x4.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from vim_core.config import RunConfig
from vim_core.errors import ConfigError
from vim_core.planning.chips import CHIPS, parse_topology

ACCELERATOR = "TPU-V4"
CHIPS_PER_HOST = 4
CORES_PER_CHIP = 2
SMALL = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
LARGEST = (12, 12, 16)


@dataclass(frozen=True)
class TpuSlice:
    """A block of chips joined by their own network; `dimensions` are chips along its three axes."""

    dimensions: tuple[int, int, int]

    @property
    def chips(self) -> int:
        """Chips in the slice."""
        return prod(self.dimensions)

    @property
    def hosts(self) -> int:
        """Machines in the slice, each with one Ray worker."""
        return self.chips // CHIPS_PER_HOST

    @property
    def pod_type(self) -> str:
        """Google's name, which counts cores: v4-32 for 2x2x4."""
        return f"v4-{self.chips * CORES_PER_CHIP}"


def parse(topology: str) -> TpuSlice:
    """A v4 slice from text such as 2x2x4. Raises `ConfigError` for no topology, or none that v4 comes in."""
    x, y, z = parse_topology(topology, CHIPS[ACCELERATOR])
    large = all(side % 4 == 0 and side <= most for side, most in zip((x, y, z), LARGEST, strict=True))
    if (x, y, z) not in SMALL and not large:
        known = "2x2x1, 2x2x2, 2x2x4, 2x4x4 and multiples of 4 up to 12x12x16"
        raise ConfigError(f"run.topology={topology!r}: no such slice; v4 comes as {known}")
    return TpuSlice((x, y, z))


def resolve_slices(run: RunConfig) -> tuple[TpuSlice, int]:
    """The slice of `run.topology`, and the number of such slices that `run.workers` fill.

    Raises:
        ConfigError: there is no topology, another accelerator, or workers that do not fill whole slices.
    """
    if run.accelerator.upper() != ACCELERATOR:
        raise ConfigError(
            f"run.accelerator={run.accelerator!r}: only {ACCELERATOR} slices are described here; GPUs need "
            "run.device=cuda"
        )
    if not run.topology:
        # Without it Ray would take the request for one chip of a host's four.
        raise ConfigError(
            "run.topology='': run.device=xla on TPUs needs the slice, such as 2x2x1 for one host with 4 chips"
        )
    tpu_slice = parse(run.topology)
    if run.workers % tpu_slice.hosts:
        raise ConfigError(
            f"run.workers={run.workers}: a {run.topology} slice ({tpu_slice.pod_type}) has {tpu_slice.chips} chips on "
            f"{tpu_slice.hosts} hosts, and there is one worker per host; take a multiple of {tpu_slice.hosts}"
        )
    return tpu_slice, run.workers // tpu_slice.hosts


def check_divisible(run: RunConfig, devices: int, batch: int) -> None:
    """Raise `ConfigError` unless the devices divide the batch and `run.fsdp` divides the devices."""
    if batch % devices:
        raise ConfigError(
            f"batch={batch}: not divisible by the {devices} XLA devices of run.workers={run.workers} "
            f"run.topology={run.topology!r}"
        )
    if run.fsdp and devices % run.fsdp:
        raise ConfigError(f"run.fsdp={run.fsdp}: does not divide the {devices} XLA devices")


def tpu_scaling(run: RunConfig, batch: int, threads: int) -> dict[str, Any]:
    """Arguments of Ray's `ScalingConfig` for one worker with so many threads on every host of the slices.

    Raises `ConfigError` as `resolve_slices` and `check_divisible` do, for the global `batch`.
    """
    tpu_slice, slices = resolve_slices(run)
    check_divisible(run, tpu_slice.chips * slices, batch)
    return {
        "num_workers": tpu_slice.hosts * slices,
        "use_tpu": True,
        "topology": run.topology.lower(),
        "accelerator_type": ACCELERATOR,
        # All chips of a host in one worker: with fewer, Ray's bounds make libtpu take each part for a slice.
        "resources_per_worker": {"CPU": threads, "TPU": CHIPS_PER_HOST},
    }


def cpu_scaling(run: RunConfig, batch: int, threads: int, devices: int) -> dict[str, Any]:
    """Arguments of Ray's `ScalingConfig` where XLA runs on one machine's CPU, as in tests.

    Raises `ConfigError` for several workers, a topology, or an uneven split.
    """
    if run.workers != 1:
        raise ConfigError(f"run.workers={run.workers}: XLA on CPU works in one process; its processes cannot reduce")
    if run.topology:
        raise ConfigError(f"run.topology={run.topology!r}: PJRT_DEVICE=CPU has no slices; leave it empty")
    check_divisible(run, devices, batch)
    return {"num_workers": 1, "resources_per_worker": {"CPU": threads}}
