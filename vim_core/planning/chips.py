"""The one table of accelerators, for plans, utilisation and doctor: memory and peak rates of one chip as published.

Rates are dense (NVIDIA prints most with sparsity, twice as high), with products added up in fp32. A device is found by
the name that torch reports; one that is not here, or a slice of one (MIG), has no rate rather than a wrong one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

from vim_core.errors import ConfigError
from vim_core.text import hint

GIB = float(1 << 30)
GB = 1e9
TERA = 1e12


@dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
        name: for people.
        memory: in bytes.
        bf16, tf32, fp32: peak FLOP/s of matrix products of these types; None where the chip has none.
        axes: of a slice's topology; 0 where `run.workers` counts the chips.
        device: pattern of the name that torch reports (`torch.cuda.get_device_name`, or `TPU <accelerator type>`).
    """

    name: str
    memory: float
    bf16: float | None
    tf32: float | None = None
    fp32: float | None = None
    axes: int = 0
    device: str = "$."

    def peak(self, precision: str) -> float | None:
        """Peak FLOP/s of products in 'bf16', 'tf32' or 'fp32'; None where unknown."""
        return {"bf16": self.bf16, "tf32": self.tf32, "fp32": self.fp32}.get(precision)


def _gpu(name: str, gigabytes: float, bf16: float | None, tf32: float | None, fp32: float, device: str) -> Chip:
    """A GPU from the units of data sheets, GB and TFLOP/s."""
    bf16, tf32 = bf16 and bf16 * TERA, tf32 and tf32 * TERA
    return Chip(name, gigabytes * GB, bf16, tf32, fp32 * TERA, 0, rf"(NVIDIA |Tesla |GeForce )*{device}")


def _tpu(name: str, memory: float, bf16: float, axes: int, device: str) -> Chip:
    """A TPU, whose unit multiplies bf16: XLA makes an fp32 product of six passes (HIGHEST) or three (HIGH)."""
    rate = bf16 * TERA
    return Chip(name, memory, rate, rate / 3, rate / 6, axes, f"TPU {device}")


# TPUs: cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e.
# Hopper: NVIDIA's data sheets of H100 (SXM, PCIe), H100 NVL and H200 (SXM, NVL). Ampere: those of A100, A30, A40, A10,
# RTX A6000 and Amazon's A10G. Ada: those of L4, L40 and L40S. Volta and Turing: those of V100 and T4. Blackwell: an
# eighth of HGX B200's, and GB200's. GeForce: appendices of the white papers on GA102, AD102 and GB202.
CHIPS = {
    "TPU-V4": _tpu("TPU v4", 32 * GIB, 275, 3, r"v4\b.*"),
    "TPU-V5E": _tpu("TPU v5e", 16 * GB, 197, 2, r"v5(e|lite|litepod)\b.*"),
    "TPU-V5P": _tpu("TPU v5p", 95 * GB, 459, 3, r"v5p\b.*"),
    "TPU-V6E": _tpu("TPU v6e", 32 * GB, 918, 2, r"v6e\b.*"),
    "GB200": _gpu("GB200", 186, 2500, 1250, 80, "GB200"),
    "B200": _gpu("B200", 180, 2250, 1125, 75, "B200"),
    "H200": _gpu("H200", 141, 989.4, 494.7, 67, "H200"),
    "H200-NVL": _gpu("H200 NVL", 141, 835.5, 417.5, 60, "H200 NVL"),
    "H100": _gpu("H100", 80, 989.4, 494.7, 67, "H100 80GB HBM3"),
    "H100-PCIE": _gpu("H100 PCIe", 80, 756, 378, 51, "H100 PCIe"),
    "H100-NVL": _gpu("H100 NVL", 94, 835.5, 417.5, 60, "H100 NVL"),
    "A100-80G": _gpu("A100 80 GB", 80, 312, 156, 19.5, "A100(-SXM4-80GB| 80GB PCIe)"),
    "A100-40G": _gpu("A100 40 GB", 40, 312, 156, 19.5, "A100-(SXM4|PCIE)-40GB"),
    "A40": _gpu("A40", 48, 149.7, 74.8, 37.4, "A40"),
    "A30": _gpu("A30", 24, 165, 82, 10.3, "A30"),
    "A10": _gpu("A10", 24, 125, 62.5, 31.2, "A10"),
    "A10G": _gpu("A10G", 24, 70, 35, 31.5, "A10G"),
    "RTX-A6000": _gpu("RTX A6000", 48, 154.8, 77.4, 38.7, "RTX A6000"),
    "L40S": _gpu("L40S", 48, 362, 183, 91.6, "L40S"),
    "L40": _gpu("L40", 48, 181, 90.5, 90.5, "L40"),
    "L4": _gpu("L4", 24, 121, 60, 30.3, "L4"),
    "V100-32G": _gpu("V100 32 GB", 32, None, None, 15.7, "V100-SXM[23]-32GB.*"),
    "V100-16G": _gpu("V100 16 GB", 16, None, None, 15.7, "V100-SXM2-16GB"),
    "T4": _gpu("T4", 16, None, None, 8.1, "T4"),
    "RTX-5090": _gpu("RTX 5090", 32, 209.5, 104.8, 104.8, "RTX 5090"),
    "RTX-4090": _gpu("RTX 4090", 24, 165.2, 82.6, 82.6, "RTX 4090"),
    "RTX-3090": _gpu("RTX 3090", 24, 71, 35.6, 35.6, "RTX 3090"),
}
"""By the name that Ray, or the user, gives the accelerator."""


def find_chip(accelerator: str) -> Chip:
    """The chip of this name, in upper or lower case.

    Raises:
        ConfigError: there is none; the nearest are named.
    """
    chip = CHIPS.get(accelerator.upper())
    if chip is None:
        raise ConfigError(f"run.accelerator={accelerator!r}: no such chip here; {hint(accelerator.upper(), CHIPS)}")
    return chip


def chip_of_device(device: str) -> Chip | None:
    """The chip that torch reports as `device`, such as 'NVIDIA H100 80GB HBM3' or 'TPU v4-32'; None where unknown."""
    return next((chip for chip in CHIPS.values() if re.fullmatch(chip.device, device)), None)


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
