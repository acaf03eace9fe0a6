"""A real MLflow server in processes of its own that tests stop, kill and start again on the same database."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.common import Running, answers, free_port, running


@dataclass
class Server:
    """One address and one database, over all lives of the server."""

    folder: Path
    port: int = field(default_factory=free_port)
    _lives: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _process: Running | None = None

    @property
    def address(self) -> str:
        """The address at which it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, or start it again."""
        arguments = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        arguments += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        arguments += ["--artifacts-destination", str(self.folder / "kept")]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self._process = self._lives.enter_context(running(arguments, self.folder / "server", **quiet))
        self._process.wait_for(lambda: answers(f"{self.address}/health"), 240)

    def stop(self) -> None:
        """It takes connections from now on and answers none, like a server that hangs."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """After `stop`."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """At once, with every process of it."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.process.wait()

    def close(self) -> None:
        """End it for good."""
        self._lives.close()

    def _signal(self, number: signal.Signals) -> None:
        import psutil

        assert self._process is not None
        parent = psutil.Process(self._process.process.pid)
        for process in [parent, *parent.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


@contextlib.contextmanager
def server(folder: Path) -> Iterator[Server]:
    """One that runs, with its database in this folder."""
    server = Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.close()


def history(address: str, run_id: str, key: str) -> list[tuple[int, float]]:
    """Every point of a metric that the server has, in order of steps."""
    from mlflow import MlflowClient

    points: list[Any] = MlflowClient(address).get_metric_history(run_id, key)
    return sorted((point.step, point.value) for point in points)
