"""The user interfaces that run for a root, as a file beside Dagster's history: process, addresses, end."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from components.artifacts import process
from components.artifacts.process import ProcessId
from pipelines.orchestration import history
from vim_core.config import PipelineConfig
from vim_core.storage import io

FILE = "ui.json"
DEFAULT_MLFLOW = "http://127.0.0.1:5000"
"""The address of MLflow by default, for links that are made before `vimctl ui` runs."""


@dataclass(frozen=True)
class Interfaces:
    """The last interfaces of a root: `addresses` to print by name, `servers` their base addresses."""

    host: str
    pid: int
    started: str
    addresses: dict[str, str] = field(default_factory=dict)
    servers: dict[str, str] = field(default_factory=dict)
    stopping: bool = False

    @property
    def alive(self) -> bool:
        """True while the process that serves them runs on this machine."""
        return self.host == socket.gethostname() and ProcessId(self.pid, self.started).alive


def read(config: PipelineConfig) -> Interfaces | None:
    """The last interfaces of this root, running or not; None where none ran."""
    try:
        return Interfaces(**json.loads(_path(config).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


@contextlib.contextmanager
def claimed(config: PipelineConfig) -> Iterator[Interfaces | None]:
    """The interfaces that another process serves for this root, or None: then it belongs to this one from now on."""
    folder = history.dagster_home(config)
    with io.locked(folder / "ui.lock"):
        other = read(config)
        if other is None or not other.alive:
            other = None
            announce(config, {}, {})
    yield other


def announce(config: PipelineConfig, addresses: Mapping[str, str], servers: Mapping[str, str]) -> None:
    """Record that this process serves the interfaces of this root, at these addresses."""
    me, last = process.current(), read(config)
    known = last.servers if last is not None and not servers else {}
    _write(config, Interfaces(socket.gethostname(), me.pid, me.started, dict(addresses), {**known, **servers}))


def drain(config: PipelineConfig) -> None:
    """Record that the interfaces stop as soon as what runs has ended: no schedule starts anything."""
    mine = read(config)
    if mine is not None:
        _write(config, replace(mine, stopping=True))


def is_stopping(config: PipelineConfig) -> bool:
    """True while the interfaces of this root only wait for what runs."""
    last = read(config)
    return last is not None and last.stopping and last.alive


def mlflow_server(config: PipelineConfig) -> str:
    """The address at which MLflow shows this root: that of its last interfaces, else the default one."""
    last = read(config)
    return last.servers.get("MLflow", DEFAULT_MLFLOW) if last is not None else DEFAULT_MLFLOW


def _path(config: PipelineConfig) -> Path:
    return history.dagster_home(config) / FILE


def _write(config: PipelineConfig, interfaces: Interfaces) -> None:
    io.write_bytes(str(_path(config)), json.dumps(asdict(interfaces)).encode())
