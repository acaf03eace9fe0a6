"""Load of the machines: processor, memory, disk, network, GPUs or TPUs, sampled at intervals on every node.

The samples of nodes that train go to the work folder, from which the driver fetches them. Nothing there talks to
MLflow: the driver's shipper delivers the rows with the training's own, once, whenever the server is there. A chunk is a
file of its own, because buckets cannot append: `nodes/node-0-<milliseconds>.jsonl`.
"""

from __future__ import annotations

import functools
import importlib
import json
import logging
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from components.artifacts.process import background_thread
from components.contract.api import Row
from components.tracking.run import MlflowRun
from vim_core.errors import StorageError
from vim_core.storage import io
from vim_core.training import spool

log = logging.getLogger(__name__)

Reading = Callable[[], dict[str, float]]
MIB = 2**20
DUTY, USED, TOTAL = "duty_cycle_pct", "hbm_capacity_usage", "hbm_capacity_total"
"""libtpu's names: percent of the time since the last look, bytes, bytes; a value for every chip of this host."""

NODES = "nodes"
SYSTEM = "system.jsonl"
"""All of a training's samples, in its artifact."""
EVERY_S, SLOWEST_S = 10.0, 120.0
GROWTH = 0.01
"""A pause is at least this share of the time so far: a week gives thousands of points, not a hundred thousand."""
FLUSH_S = 30.0
MAX_WAITING = 1000
"""Rows that wait for a store that does not answer at most; older ones are dropped."""

Rows = list[dict[str, Any]]
Write = Callable[[Rows], None]
"""Takes rows {"t": milliseconds, "m": figures}; raises `StorageError` or `OSError` if they have to be passed again."""


class Host:
    """Processor, memory, disk and network of this machine; rates are since the last call."""

    def __init__(self) -> None:
        import psutil

        self._psutil: Any = psutil
        psutil.cpu_percent()
        self._seen = self._network()

    def __call__(self) -> dict[str, float]:
        """Percent, and MiB/s."""
        before, self._seen = self._seen, self._network()
        seconds = max(self._seen[0] - before[0], 1e-3)
        return {
            "cpu_percent": float(self._psutil.cpu_percent()),
            "memory_percent": float(self._psutil.virtual_memory().percent),
            "disk_percent": float(self._psutil.disk_usage("/").percent),
            "received_mib_per_s": (self._seen[1] - before[1]) / MIB / seconds,
            "sent_mib_per_s": (self._seen[2] - before[2]) / MIB / seconds,
        }

    def _network(self) -> tuple[float, float, float]:
        # None in a container without any interface.
        counted = self._psutil.net_io_counters()
        return (time.monotonic(), *((counted.bytes_recv, counted.bytes_sent) if counted else (0.0, 0.0)))


def read_tpus(monitoring: Any) -> dict[str, float]:
    """The mean duty cycle of this host's chips and the fullest one's memory, in percent.

    `monitoring` is libtpu's module `libtpu.sdk.tpumonitoring` in the process that uses the chips. Figures that it does
    not offer, or not yet, before the first program has run, are left out.
    """

    def values(name: str) -> list[float]:
        try:
            return [float(value) for value in monitoring.get_metric(name).data()]
        except Exception as error:
            # libtpu has no error class for a missing figure.
            log.debug("libtpu: %s: %s", name, error)
            return []

    figures: dict[str, float] = {}
    duty, used, total = values(DUTY), values(USED), values(TOTAL)
    if duty:
        figures["tpu_duty_cycle_percent"] = sum(duty) / len(duty)
    if used and len(used) == len(total) and min(total) > 0:
        figures["tpu_memory_percent"] = max(100 * part / whole for part, whole in zip(used, total, strict=True))
    return figures


def read_gpus() -> dict[str, float]:
    """The mean use of this machine's NVIDIA GPUs by all processes and the fullest one's memory, in percent."""
    # A library would open the GPUs in this process, and torch's own calls cost memory on each.
    command = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits"]
    output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    rows = [[float(word) for word in line.split(",")] for line in output.splitlines() if line.strip()]
    if not rows:
        return {}
    return {
        "gpu_percent": sum(row[0] for row in rows) / len(rows),
        "gpu_memory_percent": max(100 * used / total for _, used, total in rows),
    }


def accelerators() -> list[Reading]:
    """Readings of this machine's GPUs, and of its TPU chips in the process that uses them."""
    readings = [functools.partial(read_tpus, _tpu_monitoring())] if os.environ.get("PJRT_DEVICE") == "TPU" else []
    return [*readings, read_gpus] if shutil.which("nvidia-smi") else [*readings]


@functools.cache
def _tpu_monitoring() -> Any:
    """libtpu's monitoring, or None where this libtpu has none."""
    try:
        return importlib.import_module("libtpu.sdk").tpumonitoring
    except (ImportError, AttributeError) as error:
        log.warning("no TPU metrics: this libtpu has no monitoring (%s)", error)
        return None


def read_all(readings: Sequence[Reading], node: str) -> dict[str, float]:
    """All figures under MLflow's group of this node, such as `system/node-0/cpu_percent`; a failed one is left out."""
    figures: dict[str, float] = {}
    for reading in readings:
        try:
            figures |= {f"system/{node}/{name}": value for name, value in reading().items()}
        except Exception as error:
            log.debug("%s: %s", reading, error)
    return figures


class Sampler:
    """Samples this machine at intervals, in a thread of its own; for `background_thread`."""

    def __init__(self, node: str, write: Write) -> None:
        self._node, self._write = node, write
        self._rows: Rows = []

    def run(self, over: threading.Event) -> None:
        """Sample until `over` is set, and once more then."""
        host = Host()
        began = flushed = time.monotonic()
        while not over.wait(min(SLOWEST_S, max(EVERY_S, GROWTH * (time.monotonic() - began)))):
            self._sample(host)
            if time.monotonic() - flushed >= FLUSH_S:
                self._offer()
                flushed = time.monotonic()
        # So that a training of a few seconds has a point, too.
        self._sample(host)
        self._offer()

    def _sample(self, host: Host) -> None:
        # Looked up each time: the training opens its accelerators after this thread has started.
        readings: list[Reading] = [host, *accelerators()]
        self._rows.append({"t": int(time.time() * 1000), "m": read_all(readings, self._node)})

    def _offer(self) -> None:
        try:
            self._write(self._rows)
            self._rows = []
        except (StorageError, OSError) as error:
            log.warning("this node's figures are not kept for now: %s", error)
            self._rows = self._rows[-MAX_WAITING:]


def chunk_writer(work: str, node: str) -> Write:
    """Keeps rows as files of the work folder, where the driver finds them."""

    def write(rows: Rows) -> None:
        if rows:
            text = "".join(json.dumps(row) + "\n" for row in rows)
            io.write_bytes(io.join(work, NODES, f"{node}-{rows[0]['t']:015d}.jsonl"), text.encode())

    return write


def queue_writer(run: MlflowRun, add: Callable[[Callable[[], None]], None]) -> Write:
    """Queues rows of this process's own machine for its MLflow run by `add`.

    Their steps are seconds since the work began, behind those of an earlier attempt in the same run.
    """
    began = int(time.time() * 1000)
    first_step: list[int] = []

    def deliver(rows: Rows) -> None:
        if not first_step:
            first_step.append(run.last_step(next(iter(rows[0]["m"]))) + 1)
        run.rows([Row(first_step[0] + (int(row["t"]) - began) // 1000, int(row["t"]), row["m"]) for row in rows])

    def write(rows: Rows) -> None:
        with_figures = [row for row in rows if row["m"]]
        if with_figures:
            add(lambda: deliver(with_figures))

    return write


def sampled(work: str, node_rank: int, local_rank: int, wanted: bool) -> AbstractContextManager[object]:
    """In a worker: samples its node meanwhile, if that is configured and no other worker of the node does it."""
    name = f"node-{node_rank}"
    if not wanted or local_rank:
        return nullcontext()
    return background_thread("node-samples", Sampler(name, chunk_writer(work, name)).run)


class Collector:
    """The driver's side: brings new chunks to one local spool, each row with its second since the first as step."""

    def __init__(self, work: str, local: Path) -> None:
        self._folder, self._local = io.join(work, NODES), local
        self._seen: set[str] = set()
        self._began = -1
        # The chunks of an earlier driver are fetched again; MLflow's last step says which of them it has.
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(b"")

    def fetch(self) -> None:
        """Append new rows. Raises `StorageError` if the store does not answer."""
        fresh = [name for name in io.list_names(self._folder) if name not in self._seen and name.endswith(".jsonl")]
        for name in sorted(fresh, key=lambda name: int(name.removesuffix(".jsonl").rsplit("-", 1)[-1])):
            rows = spool.parse_rows(io.read_bytes(io.join(self._folder, name)))
            if self._began < 0 and rows:
                self._began = int(rows[0]["t"])
            with open(self._local, "ab") as stream:
                for row in rows:
                    stepped = {"step": max(0, int(row["t"]) - self._began) // 1000, **row}
                    stream.write(json.dumps(stepped).encode() + b"\n")
            self._seen.add(name)
