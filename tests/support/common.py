"""What several tests share: silent doubles, `vimctl` as a subprocess, and reading manifests back."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from components.contract.api import Context, Row
from components.contract.code import PACKAGES
from vim_core.storage import io

REPOSITORY = Path(__file__).resolve().parents[2]
CONF = REPOSITORY / "pipelines" / "conf"
SERIAL = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Set for tests that run in this process; subprocesses choose their own threads."""
PASSIVE = {"OMP_WAIT_POLICY": "passive"}
"""Threads that wait for each other sleep: where other processes want the cores, those that spin cost twenty times."""
PRIVATE = "private"
"""The bucket of the emulated Google Cloud Storage that wants a login."""


@dataclass
class SilentProgress:
    """A `Progress` that remembers what it was told."""

    total: int = 0
    done: int = 0
    notes: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    def start(self, total: int, unit: str) -> None:
        self.total, self.done = total, 0

    def status(self, text: str) -> None:
        pass

    def advance(self, done: int, **figures: float) -> None:
        self.done = done
        self.figures.update(figures)

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass
class SilentTracker:
    """A `Tracker` that keeps rows, pictures and files in memory."""

    run_id: str = ""
    logged: list[Row] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def rows(self, rows: Sequence[Row]) -> None:
        for row in rows:
            seen = {name for known in self.logged if known.step >= row.step for name in known.values}
            values = {name: value for name, value in row.values.items() if name not in seen}
            self.logged += [Row(row.step, row.timestamp_ms, values)] if values else []

    def image(
        self, name: str, png: bytes | str, step: int | None = None, delivered: Callable[[], None] = lambda: None
    ) -> None:
        self.pictures[name] = png if isinstance(png, bytes) else io.read_bytes(png)
        delivered()

    def text(self, name: str, content: str) -> None:
        self.texts[name] = content

    def tag(self, tags: Mapping[str, str]) -> None:
        self.texts |= tags

    def flush(self, timeout_s: float) -> int:
        return 0


@dataclass(frozen=True)
class Finished:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


def environment(root: str | Path, **extra: str) -> dict[str, str]:
    """The variables of a `vimctl` subprocess that keeps everything below `root`."""
    kept = {name: value for name, value in os.environ.items() if name not in SERIAL}
    return {**kept, "VIM_ROOT": str(root), "PYTHONUNBUFFERED": "1", "COLUMNS": "160", "TERM": "dumb", **extra}


def command(*arguments: str) -> list[str]:
    """The argument list that starts `vimctl` in this environment's Python."""
    return [sys.executable, "-m", "pipelines.cli", *arguments]


def vimctl(*arguments: str, root: str | Path, timeout: float = 600, check: bool = True) -> Finished:
    """Run `vimctl`; with `check` a failure shows its output."""
    ended = subprocess.run(
        command(*arguments),
        cwd=REPOSITORY,
        env=environment(root),
        timeout=timeout,
        capture_output=True,
        text=True,
        check=False,
    )
    finished = Finished(ended.returncode, ended.stdout, ended.stderr)
    if check and finished.code:
        raise AssertionError(f"vimctl {' '.join(arguments)} ended with {finished.code}:\n{finished.text[-6000:]}")
    return finished


@contextlib.contextmanager
def started(root: str | Path, *arguments: str, **extra: str) -> Iterator[Running]:
    """`vimctl` in the background, its output in a file beside the root; killed on leaving if it still runs."""
    with running(command(*arguments), root, **extra) as process:
        yield process


@dataclass(frozen=True)
class Running:
    """A process in the background."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL to this process alone; its children find out for themselves."""
        self.process.kill()
        self.process.wait()

    def wait_for(self, ready: Callable[[], bool], patience: float = 300) -> None:
        """Poll until `ready()`; fails with the output when the process ends or patience does before."""
        end = time.monotonic() + patience
        while not ready():
            assert self.process.poll() is None, f"it ended too early:\n{self.text[-4000:]}"
            assert time.monotonic() < end, f"not ready after {patience} s:\n{self.text[-4000:]}"
            time.sleep(0.02)


@contextlib.contextmanager
def running(arguments: Sequence[str], root: str | Path, **extra: str) -> Iterator[Running]:
    """Any command in the background with the environment of `vimctl`; ended with its children on leaving."""
    log = Path(f"{root}-{time.monotonic_ns()}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            arguments, cwd=REPOSITORY, env=environment(root, **extra), stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        yield Running(process, log)
    finally:
        if process.poll() is None:
            _end(process.pid)
        process.wait()


def _end(pid: int) -> None:
    """Terminate a process and its descendants, by force where asking is not enough."""
    import psutil

    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.terminate()
    for member in psutil.wait_procs(family, timeout=20)[1]:
        member.kill()


def manifests(root: str | Path, component: str) -> list[dict[str, Any]]:
    """All committed manifests of a component, oldest first."""
    records = [json.loads(path.read_text()) for path in Path(root, component).glob("*/manifest.json")]
    return sorted(records, key=lambda manifest: str(manifest["created"]))


def manifest(root: str | Path, component: str) -> dict[str, Any]:
    """The only committed manifest of a component."""
    records = manifests(root, component)
    assert len(records) == 1, f"{len(records)} manifests of {component} below {root}"
    return records[0]


def file_of(root: str | Path, manifest: Mapping[str, Any], name: str) -> Path:
    """Where a file of this logical name lies."""
    path = next(entry["path"] for entry in manifest["files"] if entry["name"] == name)
    return Path(root, manifest["component"], manifest["fingerprint"], path)


def results(root: str | Path, preset: str = "smoke") -> dict[str, Any]:
    """The published `results.json` of the last run of a preset."""
    loaded: dict[str, Any] = json.loads(Path(root, "reports", preset, "results.json").read_text())
    return loaded


def free_port() -> int:
    """A TCP port of loopback that nobody uses right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(look: Callable[[], Any], what: str = "it", patience: float = 60) -> Any:
    """The first result of `look` that is true."""
    end = time.monotonic() + patience
    while not (found := look()):
        assert time.monotonic() < end, f"{what}: not after {patience} s"
        time.sleep(0.05)
    return found


def answers(address: str) -> bool:
    """True if a server answers there with 200."""
    try:
        with urllib.request.urlopen(address, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@contextlib.contextmanager
def ray_cluster(cpus: int) -> Iterator[Any]:
    """A Ray cluster on this machine whose head has so many CPUs; nodes can be added and removed."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": cpus, "include_dashboard": False}
    try:
        cluster: Any = Cluster(initialize_head=True, head_node_args=head)
    except Exception:
        # Ray gives its head 30 seconds, which a busy machine may need.
        ray.shutdown()
        cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def train_here(patch: pytest.MonkeyPatch) -> None:
    """Trainings run as one worker in this process: no Ray is started, and the slow measurement is left out."""
    from components.engines.ray import session
    from components.training.worker import run_task

    def fit(worker: Callable[[dict[str, Any]], None], arguments: dict[str, Any], ctx: Context, local: bool) -> str:
        run_task(arguments["job"], 0, 1, 0)
        return "in the test"

    patch.setattr(session, "fit", fit)
    patch.setattr("vim_core.distributed.runtimes.base.product_rate", lambda runtime: 12.3)


def other_checkout(place: Path) -> Path:
    """A folder with packages of our names that cannot be imported, such as another checkout of another version."""
    for name in PACKAGES:
        (place / "other" / name).mkdir(parents=True)
        (place / "other" / name / "__init__.py").write_text("raise RuntimeError(f'another code: {__file__}')\n")
    return place / "other"
