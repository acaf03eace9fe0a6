"""Skipped updates as MLflow shows them: a count that grows with the steps, and a file of terms and samples."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from components.contract.api import Tracker

NONFINITE = "nonfinite.jsonl"
"""Steps whose update was skipped, what was not finite there, and their samples: in artifacts and in MLflow runs."""
COUNT = "train/nonfinite_steps"
EVERY_S = 30.0
"""The file is sent whole each time, so not at every step of a training that has gone wrong."""


class FaultLog:
    """The skipped updates of one training, in step order.

    A spool that was cut back is read from its start again: an entry takes the place of all at its step or later.
    """

    def __init__(self, tracker: Tracker, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._tracker, self._every, self._clock = tracker, every_s, clock
        self._lines: dict[int, str] = {}
        self._next = float("-inf")
        self.waiting = False

    def add(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Take a spool entry {"step", "t", "nonfinite", "samples"}; gives the row of figures that counts it."""
        step = int(entry["step"])
        if self._lines and step <= next(reversed(self._lines)):
            self._lines = {known: line for known, line in self._lines.items() if known < step}
        self._lines[step] = json.dumps(dict(entry)) + "\n"
        self.waiting = True
        return {"step": step, "t": entry["t"], "m": {COUNT: float(len(self._lines))}}

    def deliver(self, now: bool = False) -> bool:
        """Send the file if it has grown and it is time, or `now`; whether the server took it."""
        if not self.waiting or not (now or self._clock() >= self._next):
            return False
        self._next = self._clock() + self._every
        if not self._tracker.text(NONFINITE, "".join(self._lines.values())):
            return False
        self.waiting = False
        return True
