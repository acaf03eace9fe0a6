"""The queue of deliveries to one MLflow server: in order, from a thread of its own, so that callers never wait."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from components.contract.api import Row
from components.tracking.link import Link, ServerAway, ServerRefused

log = logging.getLogger(__name__)

RETRY_S = 2.0
BATCH_ROWS = 50


@dataclass(frozen=True, eq=False)
class _Delivery:
    label: str
    source: object
    send: Callable[[list[Row]], None]
    row: Row | None = None


class DeliveryQueue:
    """Deliveries over one link; one that raises `ServerAway` stays first and is retried after `retry_s`.

    One that raises `ServerRefused` is dropped and noted in `link.refused`; on any other error it is dropped and logged.
    """

    def __init__(self, link: Link, retry_s: float = RETRY_S) -> None:
        self._link, self._retry = link, retry_s
        self._waiting: deque[_Delivery] = deque()
        self._changed = threading.Condition()
        self._away = self._closed = False

    def start(self) -> None:
        """Begin to deliver."""
        threading.Thread(target=self._run, name="mlflow-delivery", daemon=True).start()

    def add(self, label: str, act: Callable[[], None], source: object = None) -> None:
        """Queue an act; `label` names it for people, `source` may withdraw it."""
        self._put([_Delivery(label, source, lambda rows: act())])

    def add_rows(self, label: str, rows: Sequence[Row], send: Callable[[list[Row]], None], source: object) -> None:
        """Queue rows of figures; up to `BATCH_ROWS` that wait one behind the other are sent at once."""
        self._put([_Delivery(label, source, send, row) for row in rows])

    def withdraw(self, source: object) -> int:
        """Withdraw all undelivered entries of `source`; returns the number of acts and rows."""
        with self._changed:
            left = [entry for entry in self._waiting if entry.source is not source]
            count = len(self._waiting) - len(left)
            self._waiting = deque(left)
            self._changed.notify_all()
            return count

    def wait(self, timeout_s: float) -> bool:
        """Wait until everything is delivered (True), or the server is away or the time is over (False)."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or self._away, timeout_s)
            return not self._waiting

    def close(self, timeout_s: float) -> list[str]:
        """Keep delivering for at most `timeout_s` seconds, then stop; returns the labels of undelivered entries."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, max(0.0, deadline - time.monotonic()))
            self._closed = True
            self._changed.notify_all()
            return [entry.label for entry in self._waiting]

    def deliver_next(self) -> bool:
        """Deliver the first act, or the rows at the front; False when nothing waits or the server is away."""
        with self._changed:
            batch: list[_Delivery] = []
            for entry in itertools.islice(self._waiting, BATCH_ROWS):
                if batch and (batch[0].row is None or entry.row is None or entry.send != batch[0].send):
                    break
                batch.append(entry)
        if not batch:
            return False
        delivered = True
        try:
            batch[0].send([entry.row for entry in batch if entry.row is not None])
        except ServerAway:
            delivered = False
        except ServerRefused as error:
            self._link.refused.append(str(error))
        except Exception:
            log.exception("%s cannot be delivered", batch[0].label)
        with self._changed:
            self._away = not delivered
            for entry in batch if delivered else []:
                if self._waiting and self._waiting[0] is entry:  # it may have been withdrawn meanwhile
                    self._waiting.popleft()
            self._changed.notify_all()
        return delivered

    def _put(self, entries: list[_Delivery]) -> None:
        with self._changed:
            self._waiting.extend(entries)
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting) or self._closed)
                if self._closed:
                    return
            if not self.deliver_next():
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or not self._away, self._retry)


class NoDelivery(DeliveryQueue):
    """Drops every entry: tracking is off."""

    def start(self) -> None:
        """Start no thread."""

    def _put(self, entries: list[_Delivery]) -> None:
        """Keep nothing."""
