"""Accelerators by name: memory and peak rate of one chip as published by the makers, and topologies of TPU slices."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from vim_core.errors import ConfigError

GIB = float(1 << 30)
GB = 1e9


@dataclass(frozen=True)
class Chip:
    """`memory` in bytes, `peak` in dense bf16 FLOP/s, `axes` of a slice's topology (0: counted by `run.workers`)."""

    name: str
    memory: float
    peak: float
    axes: int = 0


# Google's system architecture pages (cloud.google.com/tpu/docs/v4, /v5e, /v5p): 32 GiB, 16 GB and 95 GB of HBM, and
# 275, 197 and 459 TFLOP/s in bf16. NVIDIA's data sheets of the SXM forms: 80 and 141 GB, 989 TFLOP/s without sparsity.
CHIPS = {
    "TPU-V4": Chip("TPU v4", 32 * GIB, 275e12, 3),
    "TPU-V5E": Chip("TPU v5e", 16 * GB, 197e12, 2),
    "TPU-V5P": Chip("TPU v5p", 95 * GB, 459e12, 3),
    "H100": Chip("H100", 80 * GB, 989e12),
    "H200": Chip("H200", 141 * GB, 989e12),
}
"""By the name that Ray, or the user, gives the accelerator."""


def find_chip(accelerator: str) -> Chip:
    """The chip of this name, in upper or lower case.

    Raises:
        ConfigError: there is none.
    """
    chip = CHIPS.get(accelerator.upper())
    if chip is None:
        raise ConfigError(f"run.accelerator={accelerator!r}: no such chip here; there are {', '.join(CHIPS)}")
    return chip


def parse_topology(topology: str, chip: Chip) -> tuple[int, ...]:
    """Sides of a slice from text such as 4x4 or 2x2x4; the slices that exist are not known here.

    Raises:
        ConfigError: it is not as many numbers as the chip's slices have axes.
    """
    sides = topology.lower().split("x")
    valid = all(side.isascii() and side.isdigit() and side[0] != "0" for side in sides)
    if not chip.axes or len(sides) != chip.axes or not valid:
        rules = {0: "no topology: set run.workers to the number of GPUs", 2: "two numbers such as 4x4"}
        rule = rules.get(chip.axes, "three numbers such as 2x2x4")
        raise ConfigError(f"run.topology={topology!r}: {chip.name} takes {rule}")
    return tuple(int(side) for side in sides)


def count_chips(topology: str, chip: Chip) -> int:
    """Chips of a slice. Raises `ConfigError` as `parse_topology`."""
    return prod(parse_topology(topology, chip))
