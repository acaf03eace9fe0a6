"""A training's spool in a bucket: the worker that writes it and the driver that follows it may be on two machines.

The worker appends to a file on its own disk; `SpoolUploader` copies it and its pictures into the work folder: before
every checkpoint, every few seconds, and at the end. A worker that continues elsewhere begins with that copy. The
driver's `SpoolDownloader` brings the copy to a local file, which the shipper reads.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vim_core.errors import StorageError
from vim_core.storage import io

log = logging.getLogger(__name__)

SPOOL, PICTURES = "spool.jsonl", "pictures"
EVERY_S = 5.0
PAUSE_FACTOR = 9
"""A pause is at least this many times as long as the last copy took: spools grow, and buckets can be slow."""


class SpoolUploader:
    """The worker's side: `local` is the spool it appends to, pictures lie beside it."""

    def __init__(self, work: str, local: Path) -> None:
        self._uri, self._local = io.join(work, SPOOL), local
        self._pictures = io.join(work, PICTURES)
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

    @property
    def _local_prefix(self) -> bytes:
        return f'"{self._local.parent / PICTURES}/'.encode()

    @property
    def _remote_prefix(self) -> bytes:
        return f'"{self._pictures}/'.encode()


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
    over = threading.Event()

    def attempt() -> None:
        try:
            act()
        except (StorageError, OSError) as error:
            log.warning("the training's spool is not copied for now: %s", error)

    def loop() -> None:
        pause = every_s
        while not over.wait(pause):
            began = time.monotonic()
            attempt()
            pause = max(every_s, PAUSE_FACTOR * (time.monotonic() - began))

    thread = threading.Thread(target=loop, name="spool-copy", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        attempt()
