"""TPU v4 slices: what a topology holds, and the Ray scaling arguments for it; every mistake is found before launch.

A v4 host has 4 chips, and each chip is one XLA device (its two cores work as one). `v4-32` counts cores: 16 chips,
4 hosts, topology 2x2x4.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from vim_core.config import RunConfig
from vim_core.errors import ConfigError

ACCELERATOR = "TPU-V4"
CHIPS_PER_HOST = 4
CORES_PER_CHIP = 2
SMALL = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
LARGEST = (12, 12, 16)


@dataclass(frozen=True)
class Slice:
    """A block of chips joined by their own network."""

    dimensions: tuple[int, int, int]

    @property
    def chips(self) -> int:
        """In the whole slice."""
        return prod(self.dimensions)

    @property
    def hosts(self) -> int:
        """Machines, and with that Ray workers, a slice."""
        return self.chips // CHIPS_PER_HOST

    @property
    def pod_type(self) -> str:
        """Google's name, which counts cores: v4-32 for 2x2x4."""
        return f"v4-{self.chips * CORES_PER_CHIP}"


def parse(topology: str) -> Slice:
    """A v4 slice from text such as 2x2x4.

    Raises:
        ConfigError: it is no topology, or none that v4 comes in.
    """
    parts = topology.lower().split("x")
    known = "v4 comes as 2x2x1, 2x2x2, 2x2x4, 2x4x4 and multiples of 4 up to 12x12x16"
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and part[0] != "0" for part in parts):
        raise ConfigError(f"run.topology={topology!r}: not three numbers such as 2x2x4; {known}")
    x, y, z = (int(part) for part in parts)
    large = all(side % 4 == 0 and side <= most for side, most in zip((x, y, z), LARGEST, strict=True))
    if (x, y, z) not in SMALL and not large:
        raise ConfigError(f"run.topology={topology!r}: no such slice; {known}")
    return Slice((x, y, z))


def slices_of(run: RunConfig) -> tuple[Slice, int]:
    """The slice that `run.topology` names and how many of them `run.workers` fill.

    Raises:
        ConfigError: there is no topology, another accelerator, or workers that do not fill whole slices.
    """
    if run.accelerator.upper() != ACCELERATOR:
        raise ConfigError(
            f"run.accelerator={run.accelerator!r}: only {ACCELERATOR} slices are described here; GPUs need "
            "run.device=cuda"
        )
    if not run.topology:
        # Ray would take the request for one chip of the four.
        raise ConfigError(
            "run.topology='': run.device=xla on TPUs needs the slice, such as 2x2x1 for one host with 4 chips"
        )
    found = parse(run.topology)
    if run.workers % found.hosts:
        raise ConfigError(
            f"run.workers={run.workers}: a {run.topology} slice ({found.pod_type}) has {found.chips} chips on "
            f"{found.hosts} hosts, and there is one worker per host; take a multiple of {found.hosts}"
        )
    return found, run.workers // found.hosts


def check_split(run: RunConfig, devices: int, batch: int) -> None:
    """Refuse a batch or a sharding that does not come out even over the devices.

    Raises:
        ConfigError: naming both numbers.
    """
    if batch % devices:
        raise ConfigError(
            f"batch={batch}: not divisible by the {devices} XLA devices of run.workers={run.workers} "
            f"run.topology={run.topology!r}"
        )
    if run.fsdp and devices % run.fsdp:
        raise ConfigError(f"run.fsdp={run.fsdp}: does not divide the {devices} XLA devices")


def tpu_scaling(run: RunConfig, batch: int, threads: int) -> dict[str, Any]:
    """Arguments of Ray's `ScalingConfig` for one worker on every host of the slices.

    Args:
        run: with `topology`, `accelerator` and `workers`.
        batch: global batch of the training.
        threads: CPUs that a worker asks for.

    Raises:
        ConfigError: see `slices_of` and `check_split`.
    """
    found, slices = slices_of(run)
    check_split(run, found.chips * slices, batch)
    return {
        "num_workers": found.hosts * slices,
        "use_tpu": True,
        "topology": run.topology.lower(),
        "accelerator_type": ACCELERATOR,
        # All chips of a host in one worker: with fewer, Ray's bounds make libtpu take each part for a slice.
        "resources_per_worker": {"CPU": threads, "TPU": CHIPS_PER_HOST},
    }


def cpu_scaling(run: RunConfig, batch: int, threads: int, devices: int) -> dict[str, Any]:
    """The same where XLA runs on one machine's CPU, as in tests.

    Raises:
        ConfigError: several workers, a topology, or an uneven split.
    """
    if run.workers != 1:
        raise ConfigError(f"run.workers={run.workers}: XLA on CPU works in one process; its processes cannot reduce")
    if run.topology:
        raise ConfigError(f"run.topology={run.topology!r}: PJRT_DEVICE=CPU has no slices; leave it empty")
    check_split(run, devices, batch)
    return {"num_workers": 1, "resources_per_worker": {"CPU": threads}}
