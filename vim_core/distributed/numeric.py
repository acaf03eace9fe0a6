"""Exactness classes: what decides the bits of a training beside its settings."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Numeric:
    """Numeric class: two runs of the same class give the same bits.

    Attributes:
        device: cpu, cuda, xla-tpu, xla-cpu.
        dtype: of the networks' products, bf16 or fp32.
        threads: of the host. They split the products of a CPU; on other devices they change no bits.
        world: the number of workers, of devices on XLA.
        compiled: torch.compile is used.
        products: how the device multiplies fp32 tensors: fp32, tf32, or as that number of bf16 products (bf16x3).
        hardware: what the device's libraries choose their kernels by: of a GPU the compute capability and the number of
            multiprocessors (sm90x132: an H100 SXM and an H200 alike), of a TPU its generation.
        deterministic: False where runs of this class may differ from each other.
    """

    device: str
    dtype: str
    threads: int
    world: int
    compiled: bool = False
    products: str = "fp32"
    hardware: str = ""
    deterministic: bool = True

    @property
    def family(self) -> str:
        """The class without the number of workers, as a folder's name: `cpu-bf16-t2`, `cuda-sm90x132-bf16`."""
        return self._join(self.device, self.hardware, self._products, self._threads)

    @property
    def name(self) -> str:
        """The class as a folder's name, such as `cpu-bf16-t2-w1`, with `-compiled` where torch.compile is used."""
        return self._join(self.device, self.hardware, self._products, self._threads, f"w{self.world}")

    def includes(self, family: str) -> bool:
        """True for this class's family and for its name before 0.2, with threads and without hardware on any device."""
        earlier = self._join(re.escape(self.device), self._products, r"t\d+")
        return family == self.family or (self.device != "cpu" and re.fullmatch(earlier, family) is not None)

    @property
    def _products(self) -> str:
        return "bf16" if self.dtype == "bf16" else self.products

    @property
    def _threads(self) -> str:
        return f"t{self.threads}" if self.device == "cpu" else ""

    def _join(self, *parts: str) -> str:
        ways = "compiled" if self.compiled else "", "" if self.deterministic else "nondeterministic"
        return "-".join(part for part in (*parts, *ways) if part)
