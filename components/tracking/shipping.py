"""Delivery of a training's spool: each step to the progress bar at once, and to MLflow exactly once."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.contract.api import Progress, Row, Tracker
from vim_core.storage import io
from vim_core.training import spool

log = logging.getLogger(__name__)

NONFINITE = "nonfinite.jsonl"
"""Steps whose update was skipped, their non-finite terms and samples: in artifacts and in MLflow runs."""
NONFINITE_COUNT = "train/nonfinite_steps"
NONFINITE_EVERY_S = 30.0
"""Least time between two deliveries, because each sends the whole file."""
SHOWN = ("loss", "images_per_s")
POLL_S = 0.5
FLUSH_S = 10.0


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
            # A file that was cut may have grown past the offset again, so the bytes before it are compared.
            stream.seek(self._offset - len(self._last))
            if stream.read(len(self._last)) != self._last:
                self._offset, self._last = 0, b""
            stream.seek(self._offset)
            lines = [line for line in stream.readlines() if line.endswith(b"\n")]
        if lines:
            self._offset += sum(len(line) for line in lines)
            self._last = lines[-1]
        return spool.parse_rows(b"".join(lines))


class FaultLog:
    """The skipped updates of one training in step order: a count that grows with the steps, and a file of them.

    A spool that was cut back is read from its start again: an entry takes the place of all at its step or later.
    """

    def __init__(self, every_s: float = NONFINITE_EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._clock = every_s, clock
        self._lines: dict[int, str] = {}
        self._next, self._grown = float("-inf"), False

    def add(self, entry: Mapping[str, Any]) -> int:
        """Take a spool entry {"step", "t", "nonfinite", "samples"}; returns the number of skipped updates so far."""
        step = int(entry["step"])
        if self._lines and step <= next(reversed(self._lines)):
            self._lines = {known: line for known, line in self._lines.items() if known < step}
        self._lines[step] = json.dumps(dict(entry)) + "\n"
        self._grown = True
        return len(self._lines)

    def due(self, now: bool = False) -> str:
        """The file's text where it has grown since the last call and it is time, or `now`; else ''."""
        if not self._grown or not (now or self._clock() >= self._next):
            return ""
        self._next, self._grown = self._clock() + self._every, False
        return "".join(self._lines.values())


def rows_of(entries: Iterable[Mapping[str, Any]], faults: FaultLog) -> list[Row]:
    """Rows of figures under the names that MLflow groups by; entries of skipped updates count in `faults`.

    A figure of a training step goes to the group `train/`, a rate to `system/`; other names have their group already.
    """
    rows: list[Row] = []
    for entry in entries:
        figures: dict[str, float] = {}
        if "nonfinite" in entry:
            figures[NONFINITE_COUNT] = float(faults.add(entry))
        for name, value in entry.get("m", {}).items():
            group = "" if "/" in name else "system/" if name.endswith("_per_s") else "train/"
            figures[f"{group}{name}"] = value
        if figures:
            rows.append(Row(int(entry["step"]), int(entry["t"]), figures))
    return rows


class Shipper:
    """Follows a spool while a training component runs; use it as a context manager.

    Every entry moves the bar, prints the line that `announce` makes of it, and is queued for MLflow. `total` in units
    of `unit` starts the bar, `shown` are the figures beside it, `beside` further files with rows for MLflow. Leaving
    waits at most `flush_s` seconds for the server and then logs in one line what it did not accept.
    """

    def __init__(
        self, spool_path: str, tracker: Tracker, progress: Progress, total: int | None = None, unit: str = "step", *,
        announce: Callable[[dict[str, Any]], str | None] = lambda row: None, shown: Sequence[str] = SHOWN,
        beside: Sequence[Path] = (), poll_s: float = POLL_S, flush_s: float = FLUSH_S,
    ) -> None:  # fmt: skip
        self._path = io.local_path(spool_path)
        self._tails = [Tail(path) for path in (self._path, *beside)]
        self._tracker, self._progress, self._total, self._unit = tracker, progress, total, unit
        self._announce, self._shown = announce, tuple(shown)
        self._poll, self._flush = poll_s, flush_s
        self._started_ms = int(time.time() * 1000)
        self._faults = FaultLog()
        # MLflow stores a picture again if it is sent again: delivered ones are noted beside the spool.
        self._delivered = self._path.with_name("shipped-pictures.txt")
        self._pictures = set(self._delivered.read_text().splitlines()) if self._delivered.exists() else set[str]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="shipper", daemon=True)

    def __enter__(self) -> Shipper:
        if self._total is not None:
            self._progress.start(self._total, self._unit)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.close()

    def close(self) -> int:
        """Read the rest and wait for its delivery; returns the number of entries that MLflow did not accept in time."""
        self.read()
        self._ship_faults(now=True)
        left = self._tracker.flush(self._flush)
        if left:
            log.warning("MLflow did not take %d entries of %s; the artifact keeps them for later", left, self._path)
        return left

    def read(self) -> None:
        """Queue new entries for MLflow, print their lines and move the bar to the last of them."""
        entries = [entry for tail in self._tails for entry in tail.read()]
        for entry in entries:
            if "png" in entry:
                self._ship_picture(str(entry["name"]), int(entry["step"]), str(entry["png"]))
            else:
                self._tracker.rows(rows_of([entry], self._faults))
            text = self._announce(entry) if entry["t"] >= self._started_ms else None
            if text:
                self._progress.note(text)
        self._ship_faults()
        # Evaluations come later than the steps they belong to.
        rows = [entry for entry in entries if "m" in entry and any(name in entry["m"] for name in self._shown)]
        if rows:
            figures = {name: float(rows[-1]["m"][name]) for name in self._shown if name in rows[-1]["m"]}
            self._progress.advance(int(rows[-1]["step"]) + 1, **figures)

    def _ship_picture(self, name: str, step: int, path: str) -> None:
        key = f"{step} {name}"
        if key not in self._pictures:
            self._pictures.add(key)
            self._tracker.image(name, path, step, functools.partial(self._note_picture, key))

    def _note_picture(self, key: str) -> None:
        # Its folder is removed when the component has ended.
        with contextlib.suppress(FileNotFoundError), open(self._delivered, "a", encoding="utf-8") as stream:
            stream.write(f"{key}\n")

    def _ship_faults(self, now: bool = False) -> None:
        text = self._faults.due(now)
        if text:
            self._tracker.text(NONFINITE, text)

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self.read()
            except Exception:
                log.exception("%s: the spool cannot be followed any further", self._path)
                return
            self._stop.wait(self._poll)
