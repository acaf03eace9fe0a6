"""Things to tell a server, in order, from a thread of their own: the work that tells them never waits."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)

RETRY_S = 2.0


class Deliveries:
    """A queue of named acts. An act returns False when the server is away, and is tried again after `retry_s`."""

    def __init__(self, retry_s: float = RETRY_S) -> None:
        self._retry = retry_s
        self._waiting: deque[tuple[str, Callable[[], bool]]] = deque()
        self._changed = threading.Condition()
        self._away = self._closed = False
        self._thread = threading.Thread(target=self._run, name="deliveries", daemon=True)
        self._thread.start()

    def add(self, what: str, act: Callable[[], bool]) -> None:
        """Queue an act; `what` names it for people."""
        with self._changed:
            self._waiting.append((what, act))
            self._changed.notify_all()

    def settle(self, timeout_s: float) -> bool:
        """Wait until nothing is left or the server turns out to be away; whether nothing is left."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or self._away, timeout_s)
            return not self._waiting

    def close(self, timeout_s: float) -> list[str]:
        """Go on trying for at most so long, then stop; returns what was not delivered."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, max(0.0, deadline - time.monotonic()))
            self._closed = True
            self._changed.notify_all()
            return [what for what, _ in self._waiting]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting) or self._closed)
                if self._closed:
                    return
                what, act = self._waiting[0]
            taken = self._attempt(what, act)
            with self._changed:
                self._away = not taken
                if taken:
                    self._waiting.popleft()
                self._changed.notify_all()
                if not taken:
                    self._changed.wait_for(lambda: self._closed, self._retry)

    def _attempt(self, what: str, act: Callable[[], bool]) -> bool:
        try:
            return act()
        except Exception:
            log.exception("%s cannot be delivered", what)
            return True
