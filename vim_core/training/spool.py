"""The metrics spool: JSON lines on disk that survive any crash and are delivered by somebody else.

Each line is {"step": int, "t": milliseconds, "m": {name: value}}, {"step", "t", "png": path, "name"} for a picture,
{"step", "t", "nonfinite": [term, ...], "samples": [id, ...]} for a skipped update, or {"step": -1, "t", "note": text}
for a line that people should see; the line at the end of a training is such a note of its last step and says
"summary": true. Names are those of a training step (`loss`) or have a group: `eval/psnr_db` of a held-out evaluation,
whose line may come later than those of later steps, `system/mfu` of the machine.
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


def parse(text: bytes) -> list[dict[str, Any]]:
    """Whole lines of a spool; a torn line is left out."""
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
        self._late: list[bytes] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        # A writer that died in the middle of a line must not swallow the next one.
        if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n"):
            with open(path, "ab") as stream:
                stream.write(b"\n")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append the figures of one step."""
        self._append({"step": step, "t": int(time.time() * 1000), "m": dict(values)})

    def write_picture(self, step: int, name: str, png: bytes) -> None:
        """Keep a picture beside the spool and append a row that names it."""
        path = self.path.with_name("pictures") / f"{name}-{step:08d}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png)
        except OSError as error:
            log.warning("%s: %s; training goes on without the picture", path, error)
            path.unlink(missing_ok=True)
            return
        self._append({"step": step, "t": int(time.time() * 1000), "png": str(path), "name": name})

    def write_nonfinite(self, step: int, terms: Sequence[str], samples: Sequence[str]) -> None:
        """Append a skipped update: which terms were not finite, and the samples of its batch."""
        row = {"step": step, "t": int(time.time() * 1000), "nonfinite": list(terms), "samples": list(samples)}
        self._append(row)

    def rows(self) -> list[dict[str, Any]]:
        """All whole lines so far."""
        return parse(self.path.read_bytes()) if self.path.exists() else []

    def write_summary(self, step: int, text: str) -> None:
        """Append the line at the end of a training, whose last step is `step`."""
        self._append({"step": step, "t": int(time.time() * 1000), "note": text, "summary": True})

    def write_note(self, text: str) -> None:
        """Append a line for people; it belongs to no step."""
        self._append({"step": -1, "t": int(time.time() * 1000), "note": text})

    def _append(self, row: dict[str, Any]) -> None:
        self._late.append(json.dumps(row).encode() + b"\n")
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with open(self.path, "ab") as stream:
                stream.write(b"".join(self._late))
        except OSError as error:
            # A full disk must not end a training that can do without this line for a while.
            log.warning("%s: %s; %d lines wait", self.path, error, len(self._late))
            with contextlib.suppress(OSError):
                os.truncate(self.path, size)
            return
        self._late.clear()

    def truncate(self, step: int) -> None:
        """Drop every row at or after `step`: training resumes there and will write them again."""
        if not self.path.exists():
            return
        kept = [row for row in parse(self.path.read_bytes()) if row["step"] < step]
        temporary = self.path.with_suffix(".cut")
        temporary.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in kept))
        os.replace(temporary, self.path)
