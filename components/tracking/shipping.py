"""A training's spool: copied to a bucket, followed by the driver, each step to the bar and to MLflow exactly once.

The worker appends to a file on its own disk. Where the work folder is in a bucket, `SpoolUploader` copies the file and
its pictures there: before every checkpoint, every few seconds, and at the end. A worker that continues elsewhere begins
with that copy; the driver's `SpoolDownloader` brings it to a local file, which the `Shipper` reads.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from components.artifacts.process import background_thread
from components.contract.api import Progress, Row, Tracker
from vim_core.errors import StorageError
from vim_core.storage import io
from vim_core.training import spool

log = logging.getLogger(__name__)

SPOOL, PICTURES = "spool.jsonl", "pictures"
EVERY_S = 5.0
PAUSE_FACTOR = 9
"""A pause is at least this many times as long as the last copy took: spools grow, and buckets can be slow."""
CURVES = "curves.jsonl"
"""The figures of every log line, in artifacts."""
NONFINITE = "nonfinite.jsonl"
"""Steps whose update was skipped, their non-finite terms and samples: in artifacts and in MLflow runs."""
NONFINITE_COUNT = "train/nonfinite_steps"
NONFINITE_EVERY_S = 30.0
"""Least time between two deliveries, because each sends the whole file."""
SHOWN = ("loss", "images_per_s")
CAPTION = 14
"""Height of a caption, in pixels."""
POLL_S = 0.5
FLUSH_S = 10.0


class SpoolUploader:
    """The worker's side: `local` is the spool it appends to, pictures lie beside it."""

    def __init__(self, work: str, local: Path) -> None:
        self._uri, self._local = io.join(work, SPOOL), local
        self._pictures = io.join(work, PICTURES)
        # Pictures' paths in the rows begin with one of these.
        self._local_prefix = f'"{local.parent / PICTURES}/'.encode()
        self._remote_prefix = f'"{self._pictures}/'.encode()
        self._sent: set[str] = set()
        self._state = (0, 0)
        self._lock = threading.Lock()

    def fetch(self) -> None:
        """Start from the copy in the work folder, written by any machine, or from nothing."""
        self._local.parent.mkdir(parents=True, exist_ok=True)
        self._local.unlink(missing_ok=True)
        shutil.rmtree(self._local.parent / PICTURES, ignore_errors=True)
        if not io.exists(self._uri):
            return
        for name in io.list_names(self._pictures):
            io.write_bytes(str(self._local.parent / PICTURES / name), io.read_bytes(io.join(self._pictures, name)))
        self._local.write_bytes(io.read_bytes(self._uri).replace(self._remote_prefix, self._local_prefix))

    def send(self) -> None:
        """Copy new content. Raises `StorageError` if the store does not accept it."""
        with self._lock:
            if not self._local.exists():
                return
            status = self._local.stat()
            state = (status.st_mtime_ns, status.st_size)
            if state == self._state:
                return
            data = self._local.read_bytes()
            for path in sorted(self._local.parent.glob(f"{PICTURES}/*.png")):
                if path.name not in self._sent:
                    io.write_bytes(io.join(self._pictures, path.name), path.read_bytes())
                    self._sent.add(path.name)
            # After the pictures it names.
            io.write_bytes(self._uri, data.replace(self._local_prefix, self._remote_prefix))
            self._state = state


class SpoolDownloader:
    """The driver's side: brings the copy to `local` whenever it has changed."""

    def __init__(self, work: str, local: Path) -> None:
        self._uri, self._local = io.join(work, SPOOL), local
        self._seen = ""
        if not io.exists(self._uri):
            # A new training; files here are left over from one that had the same folder.
            shutil.rmtree(local.parent, ignore_errors=True)

    def fetch(self) -> None:
        """Download the copy if it has changed. Raises `StorageError` if the store does not answer."""
        version = io.version(self._uri)
        if version and version != self._seen:
            io.write_bytes(str(self._local), io.read_bytes(self._uri))
            self._seen = version


@contextlib.contextmanager
def repeating(act: Callable[[], None], every_s: float = EVERY_S) -> Iterator[None]:
    """Call `act` every few seconds from a thread, and once more at the end; a failure of the store is only logged."""

    def attempt() -> None:
        try:
            act()
        except (StorageError, OSError) as error:
            log.warning("the training's spool is not copied for now: %s", error)

    def loop(over: threading.Event) -> None:
        pause = every_s
        while not over.wait(pause):
            began = time.monotonic()
            attempt()
            pause = max(every_s, PAUSE_FACTOR * (time.monotonic() - began))

    try:
        with background_thread("spool-copy", loop):
            yield
    finally:
        attempt()


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

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
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
        self._next, self._grown = self._clock() + NONFINITE_EVERY_S, False
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


def captioned(png: bytes, text: str) -> bytes:
    """The picture with a line of text below it. Raises `UnidentifiedImageError`, an `OSError`, for other bytes."""
    from PIL import Image, ImageDraw

    picture = Image.open(BytesIO(png)).convert("RGB")
    taller = Image.new("RGB", (picture.width, picture.height + CAPTION), "white")
    taller.paste(picture)
    ImageDraw.Draw(taller).text((2, picture.height + 1), text, fill="black")
    out = BytesIO()
    taller.save(out, "PNG")
    return out.getvalue()


class Shipper:
    """Follows a spool while a training component runs; use it as a context manager.

    Every entry moves the bar, prints its note, and is queued for MLflow. `beside` are further files with rows for
    MLflow. Leaving waits at most `flush_s` seconds for the server and then logs in one line what it did not accept.
    """

    def __init__(
        self, path: Path, tracker: Tracker, progress: Progress, beside: Sequence[Path] = (), *,
        poll_s: float = POLL_S, flush_s: float = FLUSH_S,
    ) -> None:  # fmt: skip
        self._path, self._tracker, self._progress = path, tracker, progress
        self._tails = [Tail(each) for each in (path, *beside)]
        self._poll, self._flush = poll_s, flush_s
        self._started_ms = int(time.time() * 1000)
        self._faults = FaultLog()
        # MLflow stores a picture again if it is sent again: delivered ones are noted beside the spool.
        self._delivered = path.with_name("shipped-pictures.txt")
        self._pictures = set(self._delivered.read_text().splitlines()) if self._delivered.exists() else set[str]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="shipper", daemon=True)

    def __enter__(self) -> Shipper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.read()
        self._ship_faults(now=True)
        left = self._tracker.flush(self._flush)
        if left:
            log.warning("MLflow did not take %d entries of %s; the artifact keeps them for later", left, self._path)

    def read(self) -> None:
        """Queue new entries for MLflow, print their lines and move the bar to the last of them."""
        entries = [entry for tail in self._tails for entry in tail.read()]
        for entry in entries:
            if "png" in entry:
                name, step = str(entry["name"]), int(entry["step"])
                key = f"{step} {name}"
                if key not in self._pictures:
                    first = all(known.partition(" ")[2] != name for known in self._pictures)
                    self._pictures.add(key)
                    if first and step:
                        self._ship_first(name, str(entry["png"]), step)
                    noted = functools.partial(self._note_picture, key)
                    self._tracker.image(name, str(entry["png"]), step, noted)
            else:
                self._tracker.rows(rows_of([entry], self._faults))
            if "tags" in entry:
                self._tracker.tag(entry["tags"])
            text = entry.get("note")
            if "debug" in entry or entry.get("summary"):
                log.debug("%s", entry.get("debug", text))
                continue
            if "nonfinite" in entry:
                text = f"step {entry['step']}: not finite: {', '.join(entry['nonfinite'])}; update skipped"
            if text and entry["t"] >= self._started_ms:
                self._progress.note(str(text))
        self._ship_faults()
        # Evaluations come later than the steps they belong to.
        rows = [entry for entry in entries if "m" in entry and any(name in entry["m"] for name in SHOWN)]
        if rows:
            figures = {name: float(rows[-1]["m"][name]) for name in SHOWN if name in rows[-1]["m"]}
            self._progress.advance(int(rows[-1]["step"]) + 1, **figures)

    def _ship_first(self, name: str, path: str, step: int) -> None:
        """Send the first picture for step 0 too, with its own step below: MLflow's grid begins there, with nothing."""
        try:
            picture = captioned(io.read_bytes(path), f"step {step}")
        except OSError:
            log.debug("%s is no picture", path)
            return
        self._tracker.image(name, picture, 0)

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
