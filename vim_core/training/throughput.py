"""Throughput of a training: samples and operations a second, time lost waiting for data, skipped updates, memory."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field
from operator import add
from typing import TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.profiler import record_function

from vim_core.distributed.products import HIGH
from vim_core.distributed.runtimes.base import Runtime
from vim_core.training.flops import PeakRates, published_peak

T = TypeVar("T")
GIB = 1024.0**3


@dataclass
class Interval:
    """An interval of training: seconds, seconds of them spent waiting for data, steps, samples."""

    seconds: float = 0.0
    waited: float = 0.0
    steps: int = 0
    samples: int = 0


@dataclass
class ThroughputMeter:
    """Counts steps between log lines without synchronising the device; `total` sums all lines so far.

    Args:
        flops: operations of one step over the global batch, 0 if not counted.
        peaks: rates that the achieved one is compared with.
        clock: monotonic seconds.
    """

    flops: float = 0.0
    peaks: PeakRates = field(default_factory=PeakRates)
    clock: Callable[[], float] = time.perf_counter
    total: Interval = field(default_factory=Interval)
    _interval: Interval = field(default_factory=Interval)
    _since: float = 0.0
    _skipped: dict[str, list[Tensor]] = field(default_factory=dict)

    def begin(self) -> None:
        """Start a new interval."""
        self._interval, self._since, self._skipped = Interval(), self.clock(), {}

    def time_batches(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; the time until each arrives counts as waiting for data."""
        arriving, end = iter(batches), object()
        while True:
            start = self.clock()
            with record_function("vim.data"):
                batch = next(arriving, end)
            if batch is end:
                return
            self._interval.waited += self.clock() - start
            yield batch  # type: ignore[misc]

    def add(self, samples: int, figures: Mapping[str, Tensor]) -> None:
        """Count one step and its skipped updates (figures whose name ends in `skipped`)."""
        self._interval.steps += 1
        self._interval.samples += samples
        for name in [name for name in figures if name.endswith("skipped")]:
            # One by one: a running sum would make each step a different program on XLA.
            self._skipped.setdefault(name, []).append(figures[name])

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time inside (checkpoints, pictures); steps made before it are finished first."""
        for flags in self._skipped.values():
            float(flags[-1])
        start = self.clock()
        try:
            yield
        finally:
            self._since += self.clock() - start

    def row(self, figures: Mapping[str, Tensor]) -> dict[str, float]:
        """End the interval: the last step's figures, the numbers of skipped updates, rates, use of the machine.

        Reading the figures waits for the device, and the clock is read after that: rates are those of finished steps.
        """
        values = {name: float(value) for name, value in figures.items()}
        values |= {name: sum(float(flag) for flag in flags) for name, flags in self._skipped.items()}
        self._interval.seconds = self.clock() - self._since
        values |= self.speed(self._interval)
        self.total = Interval(*map(add, astuple(self.total), astuple(self._interval)))
        self.begin()
        return values

    def speed(self, interval: Interval) -> dict[str, float]:
        """Samples a second, seconds a step, share of the time waiting for data, and achieved operations a second.

        `data_wait_share` is measured on the host: while it waits, the device may still be busy with earlier steps.
        """
        seconds = max(1e-9, interval.seconds)
        values = {
            "images_per_s": interval.samples / seconds,
            "system/step_seconds": seconds / max(1, interval.steps),
            "system/data_wait_share": min(1.0, interval.waited / seconds),
        }
        if self.flops:
            rate = self.flops * interval.steps / seconds
            shares = {f"system/{name}": share for name, share in self.peaks.shares(rate).items()}
            values |= {"system/flops_per_s": rate} | shares
        return values


def peak_rates(runtime: Runtime, product_rate: float) -> PeakRates:
    """Peak FLOP/s of all devices of a training: as published, and `product_rate` as measured on one of them."""
    device = torch.cuda.get_device_name(runtime.device) if runtime.device.type == "cuda" else ""
    if runtime.device.type == "xla":
        device = "TPU " + os.environ.get("TPU_ACCELERATOR_TYPE", "")  # such as v4-32
    numeric = runtime.numeric
    peak = published_peak(device, "tf32" if runtime.level == HIGH else numeric.dtype)
    return PeakRates(peak and peak * numeric.world, product_rate * numeric.world)


def learning_rates(optimizers: Mapping[str, Optimizer]) -> dict[str, float]:
    """The present rate of every network's optimizer: `learning_rate` of 'model', else `<name>_learning_rate`."""
    return {
        "learning_rate" if name == "model" else f"{name}_learning_rate": float(optimizer.param_groups[0]["lr"])
        for name, optimizer in optimizers.items()
        if optimizer.param_groups
    }


def peak_memory(device: torch.device) -> dict[str, float]:
    """Highest memory so far in GiB: resident memory of this process, and on CUDA what tensors held on the device."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
    values = {"system/peak_host_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB}
    if device.type == "cuda":
        values["system/peak_device_memory_gib"] = torch.cuda.max_memory_allocated(device) / GIB
    return values
