"""A training's spool in a bucket: the worker that writes it and the driver that follows it may be on two machines.

The worker appends to a file of its own disk as ever; `Mirror` copies that, and its pictures, below the work folder:
before every checkpoint counts, every few seconds, and at the end. A worker that continues elsewhere begins with the
copy. The driver's `Follower` brings the copy to a local file, which the shipper reads.
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
SHARE = 9
"""Pauses are so many times as long as the copying took: spools grow, and buckets can be slow."""


class Mirror:
    """The worker's side: `local` is the spool it appends to, pictures lie beside it."""

    def __init__(self, work: str, local: Path) -> None:
        self._uri, self._local = io.join(work, SPOOL), local
        self._pictures = io.join(work, PICTURES)
        self._sent: set[str] = set()
        self._state = (0, 0)
        self._lock = threading.Lock()

    def fetch(self) -> None:
        """Begin where the training was left, on whatever machine that was."""
        self._local.parent.mkdir(parents=True, exist_ok=True)
        self._local.unlink(missing_ok=True)
        shutil.rmtree(self._local.parent / PICTURES, ignore_errors=True)
        if not io.exists(self._uri):
            return
        for name in io.list_names(self._pictures):
            io.write_bytes(str(self._local.parent / PICTURES / name), io.read_bytes(io.join(self._pictures, name)))
        self._local.write_bytes(io.read_bytes(self._uri).replace(self._there, self._here))

    def send(self) -> None:
        """Copy what is new. Raises `StorageError` where the store does not take it."""
        with self._lock:
            found = self._local.stat() if self._local.exists() else None
            if found is None or (found.st_mtime_ns, found.st_size) == self._state:
                return
            data = self._local.read_bytes()
            for path in sorted(self._local.parent.glob(f"{PICTURES}/*.png")):
                if path.name not in self._sent:
                    io.write_bytes(io.join(self._pictures, path.name), path.read_bytes())
                    self._sent.add(path.name)
            # After the pictures it names.
            io.write_bytes(self._uri, data.replace(self._here, self._there))
            self._state = (found.st_mtime_ns, found.st_size)

    @property
    def _here(self) -> bytes:
        return f'"{self._local.parent / PICTURES}/'.encode()

    @property
    def _there(self) -> bytes:
        return f'"{self._pictures}/'.encode()


class Follower:
    """The driver's side: brings the copy to `local` whenever it has changed."""

    def __init__(self, work: str, local: Path) -> None:
        self._uri, self._local = io.join(work, SPOOL), local
        self._seen = ""
        if not io.exists(self._uri):
            # A new training; what lies here was left by one that had the same folder.
            shutil.rmtree(local.parent, ignore_errors=True)

    def fetch(self) -> None:
        """Bring the copy, if it is another one than the last time. Raises `StorageError` where nothing answers."""
        state = io.version(self._uri)
        if state and state != self._seen:
            io.write_bytes(str(self._local), io.read_bytes(self._uri))
            self._seen = state


@contextlib.contextmanager
def repeated(act: Callable[[], None], every_s: float = EVERY_S) -> Iterator[None]:
    """Do it now and then in a thread meanwhile, and once more at the end; a store may be away for a while."""
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
            pause = max(every_s, SHARE * (time.monotonic() - began))

    thread = threading.Thread(target=loop, name="spool-copy", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        attempt()
