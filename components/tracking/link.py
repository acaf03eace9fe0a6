"""The connection to one MLflow server: short timeouts, and a pause after a failure, then later calls fail at once."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from vim_core.config import RunConfig
from vim_core.errors import ConfigError
from vim_core.storage import io

log = logging.getLogger(__name__)
Result = TypeVar("Result")

REST_S = 5.0
RETRY_LATER = (408, 425, 429)
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
    return f"sqlite:///{io.local_path(run.root).absolute()}/mlflow.db"


def artifact_location(run: RunConfig) -> str | None:
    """The folder of pictures of runs that are tracked in SQLite; None where a server decides."""
    if run.tracking_uri or not io.is_local(run.root):
        return None
    return io.local_path(run.root).absolute().joinpath("mlartifacts").as_uri()


def run_page(server: str, experiment_id: str, run_id: str) -> str:
    """The page of an MLflow run, or '' where `server` is no web address or the run is not known there."""
    if not (server.startswith("http") and experiment_id and run_id):
        return ""
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


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
            status = getattr(error, "get_http_status_code", None)
            code = status() if callable(status) else 500
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


def silent(error: ServerAway) -> bool:
    """True if there was no answer at all, as opposed to an error from the server."""
    cause = error.__cause__
    # MLflow's client words a connection that failed so, and has no class for it.
    return cause is None or isinstance(cause, OSError) or "exception" in str(cause)


def _mlflow_client(uri: str) -> Any:
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
        return MlflowClient(uri)
