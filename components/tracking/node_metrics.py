"""The load of a machine: processor, memory, disk, network, and GPUs or TPUs where there are any."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

log = logging.getLogger(__name__)

Reading = Callable[[], dict[str, float]]
MIB = 2**20
DUTY, USED, TOTAL = "duty_cycle_pct", "hbm_capacity_usage", "hbm_capacity_total"
"""libtpu's names: percent of the time since the last look, bytes, bytes; a value for every chip of this host."""


class Host:
    """Processor, memory, disk and network of this machine; rates are since the last call."""

    def __init__(self, folder: str = "/") -> None:
        import psutil

        self._psutil: Any = psutil
        self._folder = folder
        psutil.cpu_percent()
        self._seen = self._network()

    def __call__(self) -> dict[str, float]:
        """Percent, and MiB/s."""
        before, self._seen = self._seen, self._network()
        seconds = max(self._seen[0] - before[0], 1e-3)
        return {
            "cpu_percent": float(self._psutil.cpu_percent()),
            "memory_percent": float(self._psutil.virtual_memory().percent),
            "disk_percent": float(self._psutil.disk_usage(self._folder).percent),
            "received_mib_per_s": (self._seen[1] - before[1]) / MIB / seconds,
            "sent_mib_per_s": (self._seen[2] - before[2]) / MIB / seconds,
        }

    def _network(self) -> tuple[float, float, float]:
        # None in a container without any interface.
        counted = self._psutil.net_io_counters()
        return (time.monotonic(), *((counted.bytes_recv, counted.bytes_sent) if counted else (0.0, 0.0)))


class Tpu:
    """Duty cycle and memory of this host's chips, from libtpu's monitoring in the process that uses them.

    `monitoring` is libtpu's module `libtpu.sdk.tpumonitoring`, or a substitute. Figures that it does not offer, or not
    yet, before the first program has run, are left out.
    """

    def __init__(self, monitoring: Any) -> None:
        self._monitoring = monitoring

    def __call__(self) -> dict[str, float]:
        """The chips' mean duty cycle and the fullest chip's memory, both in percent."""
        figures: dict[str, float] = {}
        duty, used, total = self._values(DUTY), self._values(USED), self._values(TOTAL)
        if duty:
            figures["tpu_duty_cycle_percent"] = sum(duty) / len(duty)
        if used and len(used) == len(total) and min(total) > 0:
            figures["tpu_memory_percent"] = max(100 * part / whole for part, whole in zip(used, total, strict=True))
        return figures

    def _values(self, name: str) -> list[float]:
        try:
            return [float(value) for value in self._monitoring.get_metric(name).data()]
        except Exception as error:
            # libtpu has no error class for a missing figure.
            log.debug("libtpu: %s: %s", name, error)
            return []


class Gpu:
    """Use and memory of this machine's NVIDIA GPUs by all processes; `ask` returns the output of nvidia-smi."""

    def __init__(self, ask: Callable[[], str] | None = None) -> None:
        self._ask = ask or _nvidia_smi

    def __call__(self) -> dict[str, float]:
        """The mean use and the fullest one's memory, both in percent."""
        rows = [[float(word) for word in line.split(",")] for line in self._ask().splitlines() if line.strip()]
        if not rows:
            return {}
        return {
            "gpu_percent": sum(row[0] for row in rows) / len(rows),
            "gpu_memory_percent": max(100 * used / total for _, used, total in rows),
        }


def _nvidia_smi() -> str:
    # A library would open the GPUs in this process, and torch's own calls cost memory on each.
    command = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits"]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout


def accelerators() -> list[Reading]:
    """Readings of this machine's GPUs, and of its TPU chips in the process that uses them."""
    tpu = list(_tpu()) if os.environ.get("PJRT_DEVICE") == "TPU" else []
    return [*tpu, Gpu()] if shutil.which("nvidia-smi") else tpu


@functools.cache
def _tpu() -> list[Reading]:
    try:
        return [Tpu(importlib.import_module("libtpu.sdk").tpumonitoring)]
    except (ImportError, AttributeError) as error:
        log.warning("no TPU metrics: this libtpu has no monitoring (%s)", error)
        return []


def read_all(readings: Sequence[Reading], node: str) -> dict[str, float]:
    """All figures under MLflow's group of this node, such as `system/node-0/cpu_percent`; a failed one is left out."""
    figures: dict[str, float] = {}
    for reading in readings:
        try:
            figures |= {f"system/{node}/{name}": value for name, value in reading().items()}
        except Exception as error:
            log.debug("%s: %s", type(reading).__name__, error)
    return figures
