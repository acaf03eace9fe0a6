"""Delivery of a training spool: each step to the bar at once, and to MLflow exactly once."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.contract.api import Progress, Row, Tracker
from components.tracking.fault_log import FaultLog
from vim_core.storage import io
from vim_core.training import spool

log = logging.getLogger(__name__)

SHOWN = ("loss", "images_per_s")
SHIPPED = {"m", "png", "nonfinite"}
"""One of these makes an entry one for MLflow."""
POLL_S = 0.5
FLUSH_S = 10.0
BATCH_ROWS = 50


class Tail:
    """Reads new whole lines of a growing file; when the file was cut back, it reads from the start again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._last = b""

    def read(self) -> list[dict[str, Any]]:
        """Entries written since the last call; all of them after a cut. A line without its end waits."""
        if not self._path.exists():
            self._offset, self._last = 0, b""
            return []
        with open(self._path, "rb") as stream:
            if not self._continues(stream):
                self._offset, self._last = 0, b""
            stream.seek(self._offset)
            lines = [line for line in stream.readlines() if line.endswith(b"\n")]
        if lines:
            self._offset += sum(len(line) for line in lines)
            self._last = lines[-1]
        return spool.parse(b"".join(lines))

    def _continues(self, stream: Any) -> bool:
        """Whether the bytes before the offset are still those read: a cut file may have grown past it again."""
        stream.seek(self._offset - len(self._last))
        return bool(stream.read(len(self._last)) == self._last)


def grouped(name: str) -> str:
    """The name under which MLflow keeps a figure: one of a training step goes to `train/`, a rate to `system/`."""
    if "/" in name:
        return name
    return f"system/{name}" if name.endswith("_per_s") else f"train/{name}"


class Ledger:
    """What the server already has, per metric: asked once, then kept; pictures in a file, if there are any."""

    def __init__(self, tracker: Tracker, pictures: Path | None = None) -> None:
        self._tracker, self._file = tracker, pictures
        self._steps: dict[str, int] = {}
        known = pictures is not None and pictures.exists()
        self._pictures = set(pictures.read_text().splitlines()) if pictures is not None and known else set()

    def missing(self, row: Row, offered: Mapping[str, int]) -> Row | None:
        """The part of a row that is neither delivered nor `offered` in the same batch. None while nobody knows."""
        left: dict[str, float] = {}
        for name, value in row.values.items():
            last = self._last(name)
            if last is None:
                return None
            if row.step > max(last, offered.get(name, -1)):
                left[name] = value
        return Row(row.step, row.timestamp_ms, left)

    def delivered(self, rows: Sequence[Row]) -> None:
        """Note rows that the server took."""
        for row in rows:
            for name in row.values:
                self._steps[name] = max(row.step, self._steps[name])

    def has_picture(self, name: str, step: int) -> bool:
        """Whether this picture went out in this or an earlier life."""
        return f"{step} {name}" in self._pictures

    def picture_delivered(self, name: str, step: int) -> None:
        """Note a picture that the server took."""
        self._pictures.add(f"{step} {name}")
        if self._file is not None:
            with open(self._file, "a", encoding="utf-8") as stream:
                stream.write(f"{step} {name}\n")

    def _last(self, name: str) -> int | None:
        if name not in self._steps:
            last = self._tracker.last_step(name)
            if last is None:
                return None
            self._steps[name] = last
        return self._steps[name]


class Outbox:
    """Entries that wait for the server, in order; an entry leaves when the server took it."""

    def __init__(self, tracker: Tracker, ledger: Ledger) -> None:
        self._tracker, self._ledger = tracker, ledger
        self.faults = FaultLog(tracker)
        self._waiting: deque[dict[str, Any]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, entries: Sequence[dict[str, Any]]) -> None:
        """Queue spool entries; figures get the names that MLflow groups by, skipped updates are counted."""
        for entry in entries:
            if "nonfinite" in entry:
                entry = self.faults.add(entry)
            if "m" in entry:
                entry = {**entry, "m": {grouped(name): value for name, value in entry["m"].items()}}
            self._waiting.append(entry)

    def deliver(self) -> bool:
        """Offer the next entries; False when the server is away, True when they were taken or none wait."""
        if not self._waiting:
            return True
        if "png" in self._waiting[0]:
            return self._picture(self._waiting[0])
        return self._rows()

    def _rows(self) -> bool:
        rows: list[Row] = []
        offered: dict[str, int] = {}
        taken = 0
        for entry in list(self._waiting)[:BATCH_ROWS]:
            if "png" in entry:
                break
            row = self._ledger.missing(Row(int(entry["step"]), int(entry["t"]), dict(entry["m"])), offered)
            if row is None:
                return False
            rows += [row] if row.values else []
            offered.update(dict.fromkeys(row.values, row.step))
            taken += 1
        if rows and not self._tracker.rows(rows):
            return False
        self._ledger.delivered(rows)
        self._drop(taken)
        return True

    def _picture(self, entry: Mapping[str, Any]) -> bool:
        name, step = str(entry["name"]), int(entry["step"])
        if not self._ledger.has_picture(name, step):
            png = _picture_bytes(str(entry["png"]))
            if png is not None and not self._tracker.image(name, png, step):
                return False
            self._ledger.picture_delivered(name, step)
        self._drop(1)
        return True

    def _drop(self, count: int) -> None:
        for _ in range(count):
            self._waiting.popleft()


class Shipper:
    """Follows `<work>/spool.jsonl` while a training component runs; use it as a context manager.

    One thread feeds the bar, another delivers to MLflow, so a slow or dead server delays neither the bar nor the
    work. Spool entries are `{"step", "t" (ms), "m": {name: value}}`, `{"step", "t", "png": path, "name"}` or
    `{"step", "t", "nonfinite": [term], "samples": [id]}`, which MLflow gets as a count and a file; of any
    entry written from now on, `announce` may make a line for the reader. With a `total` it starts the bar itself.
    Local files `beside` the spool, such as the nodes' samples, are delivered like it.
    Leaving waits at most `flush_s` seconds for the server and then says in one line what it did not take.
    """

    def __init__(
        self, spool_path: str, tracker: Tracker, progress: Progress, total: int | None = None, unit: str = "step", *,
        announce: Callable[[dict[str, Any]], str | None] = lambda row: None, shown: Sequence[str] = SHOWN,
        beside: Sequence[Path] = (),
        poll_s: float = POLL_S, flush_s: float = FLUSH_S, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._path = io.local_path(spool_path)
        self._tails = [Tail(path) for path in (self._path, *beside)]
        self._outbox = Outbox(tracker, Ledger(tracker, self._path.with_name("shipped-pictures.txt")))
        self._tracker, self._progress, self._total, self._unit = tracker, progress, total, unit
        self._announce, self._shown = announce, tuple(shown)
        self._poll, self._flush, self._clock = poll_s, flush_s, clock
        self._since_ms = int(time.time() * 1000)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._entries: deque[dict[str, Any]] = deque()
        self._threads = [
            threading.Thread(target=self._loop, args=(act,), name=f"shipper-{act.__name__}", daemon=True)
            for act in (self.show, self.ship)
        ]

    @property
    def waiting(self) -> int:
        """How many spool entries MLflow has not taken yet."""
        return len(self._entries) + len(self._outbox) + self._outbox.faults.waiting

    def __enter__(self) -> Shipper:
        if self._total is not None:
            self._progress.start(self._total, self._unit)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> int:
        """Read the rest, deliver it within the time allowed; returns how many entries were not taken."""
        deadline = self._clock() + self._flush
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=max(0.0, deadline - self._clock()))
        if any(thread.is_alive() for thread in self._threads):
            return self._give_up()
        self.show()
        while self.ship() and self.waiting and self._clock() < deadline:
            pass
        return self._give_up() if self.waiting else 0

    def show(self) -> bool:
        """Read new entries and move the bar to the last of them."""
        entries = [entry for tail in self._tails for entry in tail.read()]
        with self._lock:
            self._entries.extend(entry for entry in entries if SHIPPED & entry.keys())
        for text in [self._announce(entry) for entry in entries if entry["t"] >= self._since_ms]:
            if text:
                self._progress.note(text)
        # Evaluations come later than the steps they belong to.
        rows = [entry for entry in entries if "m" in entry and any(name in entry["m"] for name in self._shown)]
        if rows:
            figures = {name: float(rows[-1]["m"][name]) for name in self._shown if name in rows[-1]["m"]}
            self._progress.advance(int(rows[-1]["step"]) + 1, **figures)
        return False

    def ship(self) -> bool:
        """Offer the next batch to the server; whether it was taken and more may be waiting."""
        with self._lock:
            self._outbox.add(self._entries)
            self._entries.clear()
        taken = bool(len(self._outbox)) and self._outbox.deliver()
        return self._outbox.faults.deliver(now=self._stop.is_set()) or taken

    def _loop(self, act: Callable[[], bool]) -> None:
        while not self._stop.is_set():
            try:
                again = act()
            except Exception:
                log.exception("%s: the spool cannot be followed any further", self._path)
                return
            if not again:
                self._stop.wait(self._poll)

    def _give_up(self) -> int:
        left = self.waiting
        log.warning("MLflow did not take %d entries of %s; the artifact keeps them for later", left, self._path)
        self._tracker.left(left)
        return left


def _picture_bytes(path: str) -> bytes | None:
    try:
        return io.read_bytes(path)
    except FileNotFoundError:
        log.warning("picture %s is gone, it is not delivered to MLflow", path)
        return None
