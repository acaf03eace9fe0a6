"""The metrics spool: JSON lines on disk that survive any crash and are delivered by somebody else.

Each line is {"step": int, "t": milliseconds, "m": {name: value}}, {"step", "t", "png": path, "name"} for a picture,
or {"step": -1, "t", "note": text} for a line that people should see.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


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
        path.parent.mkdir(parents=True, exist_ok=True)
        # A writer that died in the middle of a line must not swallow the next one.
        if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n"):
            with open(path, "ab") as stream:
                stream.write(b"\n")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append the figures of one step."""
        self._append({"step": step, "t": int(time.time() * 1000), "m": dict(values)})

    def picture(self, step: int, name: str, png: bytes) -> None:
        """Keep a picture beside the spool and append a row that names it."""
        path = self.path.with_name("pictures") / f"{name}-{step:08d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
        self._append({"step": step, "t": int(time.time() * 1000), "png": str(path), "name": name})

    def note(self, text: str) -> None:
        """Append a line for people; it belongs to no step."""
        self._append({"step": -1, "t": int(time.time() * 1000), "note": text})

    def _append(self, row: dict[str, Any]) -> None:
        with open(self.path, "ab") as stream:
            stream.write(json.dumps(row).encode() + b"\n")

    def cut(self, step: int) -> None:
        """Drop every row at or after `step`: training resumes there and will write them again."""
        if not self.path.exists():
            return
        kept = [row for row in parse(self.path.read_bytes()) if row["step"] < step]
        temporary = self.path.with_suffix(".cut")
        temporary.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in kept))
        os.replace(temporary, self.path)
