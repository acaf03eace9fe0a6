"""The connection to one MLflow server, which fails at once during an outage, and the queue of deliveries over it."""

from __future__ import annotations

import itertools
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from components.contract.api import Row
from components.engines.environment import prepare
from components.tracking.relocate import FILES, relocate
from vim_core.config import RunConfig
from vim_core.errors import ConfigError
from vim_core.storage import io

log = logging.getLogger(__name__)

Result = TypeVar("Result")

REST_S = 5.0
UNFIT = re.compile("[?]|%[0-9A-Fa-f]{2}")
"""Parts of a path with a meaning of their own in the address of a database."""
RETRY_S = 2.0
RETRY_LATER = (408, 425, 429)
BATCH_ROWS = 50
REASON_LENGTH = 120
"""Characters of a server's answer that are logged."""
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


class ServerAway(Exception):
    """The server did not answer; the same call may succeed later."""


class ServerRefused(Exception):
    """The server rejected this call; repeating it does not help."""


def tracking_uri(run: RunConfig) -> str | None:
    """The address at which runs are tracked; None where tracking is off.

    The default is an SQLite file in the root. Raises `ConfigError` for a remote root without a server's address.
    """
    if run.tracking_uri == "off":
        return None
    if run.tracking_uri:
        return run.tracking_uri
    if not io.is_local(run.root):
        raise ConfigError(
            f"run.tracking_uri='': run.root={run.root} is remote and cannot hold MLflow's SQLite file; "
            "give a server's address, or run.tracking_uri=off"
        )
    path = io.absolute(run.root)
    if strange := UNFIT.search(path):
        raise ConfigError(
            f"run.root={run.root!r}: MLflow's database cannot lie in a folder with {strange[0]} in its path; "
            "rename the folder, or give a server's address as run.tracking_uri"
        )
    return f"sqlite:///{path}/mlflow.db"


def artifact_location(run: RunConfig) -> str | None:
    """The folder of pictures of runs that are tracked in SQLite; None where a server decides."""
    if run.tracking_uri or not io.is_local(run.root):
        return None
    return io.local_path(run.root).absolute().joinpath(FILES).as_uri()


class Link:
    """Calls to one tracking server. After a failure, calls fail at once for `rest_s` seconds.

    `connect` makes the client; the default imports MLflow, which takes seconds, on the first call. `refused` holds the
    server's answers to calls that it refused for good.
    """

    def __init__(
        self, uri: str, connect: Callable[[str], Any] | None = None, rest_s: float = REST_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.uri = uri
        self.refused: list[str] = []
        self._warned = False
        self._connect, self._rest, self._clock = connect or _mlflow_client, rest_s, clock
        self._client: Any = None
        self._resting_until = float("-inf")
        self._lock = threading.Lock()

    def refuse(self, error: ServerAway | ServerRefused) -> None:
        """Note a call that the server refused for good, and log the first one at once."""
        self.refused.append(str(error))
        if len(self.refused) == 1:
            reason = " ".join(str(error).split())[:REASON_LENGTH]
            log.warning(
                "MLflow at %s refuses what it is sent (%s); work goes on without it: look at run.tracking_uri and at "
                "the rights of this account, `vimctl doctor` tells more", self.uri, reason,
            )  # fmt: skip

    def call(self, act: Callable[[Any], Result]) -> Result:
        """Run `act(client)`. Raises `ServerAway` or `ServerRefused`, nothing else of MLflow's."""
        if self._clock() < self._resting_until:
            raise ServerAway(f"{self.uri} did not answer a moment ago")
        try:
            with self._lock:
                if self._client is None:
                    self._client = self._connect(self.uri)
            return act(self._client)
        except Exception as error:
            code = http_status(error)
            if 400 <= code < 500 and code not in RETRY_LATER:
                raise ServerRefused(str(error)) from error
            self._resting_until = self._clock() + self._rest
            if not self._warned:
                self._warned = True
                reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
                log.warning(
                    "MLflow at %s does not answer (%s); work goes on, figures are delivered later", self.uri, reason
                )
            raise ServerAway(f"{self.uri}: {error}") from error


def http_status(error: Exception) -> int:
    """The status code of an error of MLflow's, 500 for another error."""
    status = getattr(error, "get_http_status_code", None)
    return int(status()) if callable(status) else 500


def _mlflow_client(uri: str) -> Any:
    prepare()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from mlflow import MlflowClient

    if not uri.startswith("sqlite:///"):
        return MlflowClient(uri)
    database = Path(uri.removeprefix("sqlite:///"))
    # The client creates or upgrades the tables at once; two that do so together break each other's work.
    with io.locked(database.with_name(f".{database.name}.lock")):
        client = MlflowClient(uri)
        relocate(database)
        return client


@dataclass(frozen=True, eq=False)
class _Delivery:
    label: str
    source: object
    send: Callable[[list[Row]], None]
    row: Row | None = None


class DeliveryQueue:
    """Deliveries over one link; one that raises `ServerAway` stays first and is retried after `retry_s`.

    One that raises `ServerRefused` is dropped and noted in `link.refused`; on any other error it is dropped and logged.
    With a link to no address, where tracking is off, everything is dropped.
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
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, timeout_s)
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
            self._link.refuse(error)
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
            self._waiting.extend(entries if self._link.uri else [])
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
