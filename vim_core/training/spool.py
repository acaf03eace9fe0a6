"""The metrics spool: JSON lines on disk that survive any crash; another process delivers them to MLflow.

Kinds of lines, all with "step" and "t" (milliseconds):

    {"m": {name: value}}                           metrics
    {"png": path, "name": name}                    a picture
    {"nonfinite": [term, ...], "samples": [id, …]} a skipped update
    {"note": text}                                 a message to people, with step -1
    {"note": text, "tags": {name: text}}           one that also changes tags of the training's run
    {"note": text, "summary": true}                the summary of the training, with its last step

Metrics have the name of a training step's (`loss`) or a prefix: `system/mfu` of the machine, `eval/psnr_db` of an
evaluation, whose line may come later than those of later steps.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def parse_rows(text: bytes) -> list[dict[str, Any]]:
    """The rows in the bytes of a spool; torn lines are left out."""
    rows = []
    for line in text.split(b"\n")[:-1]:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


class Spool:
    """Appends rows to a local file; rank 0 owns it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending: list[bytes] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        # The next row must not be appended to a line that a killed writer left incomplete.
        if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n"):
            with open(path, "ab") as stream:
                stream.write(b"\n")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append the metrics of one step."""
        self._append(step, m=dict(values))

    def write_picture(self, step: int, name: str, png: bytes) -> None:
        """Write a picture beside the spool and append a row that names it."""
        path = self.path.with_name("pictures") / f"{name}-{step:08d}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png)
        except OSError as error:
            log.warning("%s: %s; training goes on without the picture", path, error)
            path.unlink(missing_ok=True)
            return
        self._append(step, png=str(path), name=name)

    def write_nonfinite(self, step: int, terms: Sequence[str], samples: Sequence[str]) -> None:
        """Append a skipped update: which terms were not finite, and the samples of its batch."""
        self._append(step, nonfinite=list(terms), samples=list(samples))

    def rows(self) -> list[dict[str, Any]]:
        """All complete rows so far."""
        return parse_rows(self.path.read_bytes()) if self.path.exists() else []

    def write_summary(self, step: int, text: str) -> None:
        """Append the summary at the end of a training, whose last step is `step`."""
        self._append(step, note=text, summary=True)

    def write_note(self, text: str, debug: bool = False, tags: Mapping[str, str] | None = None) -> None:
        """Append a message to people, or with `debug` to developers; it belongs to no step.

        `tags` are for the training's run in MLflow.
        """
        self._append(-1, **{"debug" if debug else "note": text}, **({"tags": dict(tags)} if tags else {}))

    def _append(self, step: int, **entries: Any) -> None:
        row = {"step": step, "t": int(time.time() * 1000)} | entries
        self._pending.append(json.dumps(row).encode() + b"\n")
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with open(self.path, "ab") as stream:
                stream.write(b"".join(self._pending))
        except OSError as error:
            # A full disk must not end the training: the row is written with the next one that succeeds.
            log.warning("%s: %s; %d lines wait", self.path, error, len(self._pending))
            with contextlib.suppress(OSError):
                os.truncate(self.path, size)
            return
        self._pending.clear()

    def truncate(self, step: int) -> None:
        """Drop every row at or after `step`: training resumes there and writes them again."""
        if not self.path.exists():
            return
        rows = [row for row in parse_rows(self.path.read_bytes()) if row["step"] < step]
        temporary = self.path.with_suffix(".cut")
        temporary.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        os.replace(temporary, self.path)
