"""Figures of every node that trains: sampled there, written to the work folder, fetched by the driver.

Nothing here talks to MLflow: the driver's shipper delivers the rows with the training's own, once, whenever the server
is there. A chunk is a file of its own, because buckets cannot append: `nodes/node-0-<milliseconds>.jsonl`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from components.contract.api import Row
from components.tracking import node_metrics
from components.tracking.run import MlflowRun
from vim_core.errors import StorageError
from vim_core.storage import io
from vim_core.training import spool

log = logging.getLogger(__name__)

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


class Sampler:
    """A thread that samples this machine at intervals while it runs."""

    def __init__(self, node: str, write: Write, every_s: float = EVERY_S, flush_s: float = FLUSH_S) -> None:
        self._node, self._write, self._every, self._flush = node, write, every_s, flush_s
        self._rows: Rows = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="node-samples", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        host = node_metrics.Host()
        began = flushed = time.monotonic()
        while not self._over.wait(min(SLOWEST_S, max(self._every, GROWTH * (time.monotonic() - began)))):
            self._sample(host)
            if time.monotonic() - flushed >= self._flush:
                self._offer()
                flushed = time.monotonic()
        # So that a training of a few seconds has a point, too.
        self._sample(host)
        self._offer()

    def _sample(self, host: node_metrics.Host) -> None:
        # Looked up each time: the training opens its accelerators after this thread has started.
        readings: list[node_metrics.Reading] = [host, *node_metrics.accelerators()]
        self._rows.append({"t": int(time.time() * 1000), "m": node_metrics.read_all(readings, self._node)})

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


@contextlib.contextmanager
def sampled(work: str, node_rank: int, local_rank: int, wanted: bool) -> Iterator[None]:
    """In a worker: sample its node meanwhile, if that is configured and no other worker of the node does it."""
    if not wanted or local_rank:
        yield
        return
    name = f"node-{node_rank}"
    with Sampler(name, chunk_writer(work, name)):
        yield


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
