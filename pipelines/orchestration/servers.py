"""Server processes on this machine: started on loopback, waited for, stopped with all they started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vim_core.errors import VimError

HOST = "127.0.0.1"
READY_S = 240.0
STOP_S = 10.0
LOG_LINES = 5


class ServerError(VimError):
    """A server did not start, or it ended; the message has the end of its log."""


def free_port(wanted: int) -> int:
    """`wanted` if no process listens there on loopback, else a port that the system picks."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServerError(f"no free port on {HOST}")


@dataclass
class Server:
    """One server process; `health` is the path that answers once it is up, `wanted` the port asked for, 0 for any."""

    name: str
    port: int
    command: Sequence[str]
    environment: Mapping[str, str]
    health: str
    log: Path
    wanted: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """The address for a browser."""
        return f"http://{HOST}:{self.port}"

    @property
    def note(self) -> str:
        """A sentence on its port, '' where it is the wanted one."""
        return f"port {self.wanted} is taken: {self.port} instead" if self.wanted not in (0, self.port) else ""

    def start(self) -> None:
        """Start the process in a session of its own, so that Ctrl-C reaches only us; its output goes to the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "wb") as out:
            self._process = subprocess.Popen(
                self.command, env={**os.environ, **self.environment}, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def wait_ready(self, timeout_s: float = READY_S) -> None:
        """Wait until it answers. Raises `ServerError` when it ends before, or takes too long."""
        deadline = time.monotonic() + timeout_s
        while True:
            with (
                contextlib.suppress(urllib.error.URLError, OSError),
                urllib.request.urlopen(f"{self.address}{self.health}", timeout=5) as answer,
            ):
                if answer.status == 200:
                    return
            self.check()
            if time.monotonic() > deadline:
                raise ServerError(
                    f"{self.name} does not answer at {self.address} after {timeout_s:.0f} s; see {self.log}"
                )
            time.sleep(0.3)

    def check(self) -> None:
        """Raise `ServerError` with the end of its log if the process is gone."""
        if self._process is not None and self._process.poll() is not None:
            lines = self.log.read_text(errors="replace").strip().splitlines()[-LOG_LINES:]
            code = self._process.returncode
            raise ServerError(f"{self.name} ended with status {code}; the end of {self.log}: {' | '.join(lines)}")

    def stop(self) -> None:
        """End the process and all its children: SIGTERM first, SIGKILL after `STOP_S` seconds."""
        if self._process is None:
            return
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        # The process group exists while any child of the first process does.
        with contextlib.suppress(ProcessLookupError):
            if self._process is not None:
                os.killpg(self._process.pid, number)
