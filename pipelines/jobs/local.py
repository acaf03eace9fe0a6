"""The Ray cluster that `vimctl cluster up` starts on this machine: several nodes, a token, loopback alone."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.jobs import processes
from pipelines.jobs.node import HOST
from pipelines.jobs.processes import Named
from pipelines.orchestration import servers
from vim_core.errors import ConfigError, VimError
from vim_core.storage import io

if TYPE_CHECKING:
    from pipelines.jobs.profile import Cluster

CODE = Path(__file__).resolve().parents[2]
READY_S = 300.0
POLL_S = 0.5
LATE, RESTARTS = "timed out during startup", 4
"""Ray gives a node 30 seconds to start, which a busy machine may need."""
PORT = 8265
OBJECTS_BYTES = 512 << 20
"""Of shared memory a node: hardly anything of VIM passes through Ray's object store."""
MARK = "VIM_LOCAL_CLUSTER"
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray's own way to stay on 127.0.0.1, for nodes, workers and drivers."""
SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A node that was killed is missed after five seconds, not fifteen.
    "RAY_health_check_period_ms": "1000",
    # A job that is told to end may give its leases back and end its runs in MLflow.
    "RAY_JOB_STOP_WAIT_TIME_S": "20",
    **LOOPBACK,
}


@dataclass(frozen=True)
class Record:
    """What is known of the running cluster: `nodes` are the processes that hold one each, the head's first."""

    address: str
    ray_address: str
    token_file: str
    python: str
    folder: str
    cpus: int
    nodes: list[Named]

    @property
    def alive(self) -> list[Named]:
        """The nodes that run."""
        return [node for node in self.nodes if node.found() is not None]

    @property
    def running(self) -> bool:
        """Whether the head runs: without it there is no cluster."""
        return bool(self.nodes) and self.nodes[0].found() is not None


def place() -> Path:
    """The folder of token and record, below `VIM_STATE` or ~/.vim."""
    return Path(os.environ.get("VIM_STATE") or Path.home() / ".vim") / "clusters" / "local"


def read() -> Record | None:
    """The record of the last `up` that was not followed by `down`. Raises `ConfigError` for a damaged one."""
    path = place() / "cluster.json"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return Record(**{**tree, "nodes": [Named(**node) for node in tree["nodes"]]})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: not what `vimctl cluster up` writes ({error}); remove it") from error


def complete(cluster: Cluster) -> None:
    """Fill in what the record says of the running cluster, where the profile leaves it open."""
    record = read()
    if record is None or not record.running:
        return
    cluster.address = cluster.address or record.address
    cluster.token_file = cluster.token_file or record.token_file
    cluster.python = record.python
    cluster.env.setdefault("PYTHONPATH", os.fspath(CODE))
    cluster.run.setdefault("ray_address", record.ray_address)


def up(nodes: int, cpus: int, port: int, say: Callable[[str], None]) -> Record:
    """Start a head and `nodes` - 1 workers of `cpus` logical CPUs each, and wait until all have joined.

    With workers, the head has no CPUs and only coordinates, as on Kubernetes: drivers of jobs run there, so that a
    lost worker takes none along. What is left of a cluster whose head died is removed first.

    Raises:
        ConfigError: one runs already, or a number makes no sense.
        VimError: a node does not start; the message has the end of its log.
    """
    if nodes < 1 or cpus < 1:
        raise ConfigError(f"--nodes {nodes} --cpus {cpus}: a cluster has at least one node and CPU")
    with io.locked(place() / "lock"):
        before = read()
        if before is not None and before.running:
            raise ConfigError(
                f"a local cluster runs already: {len(before.alive)} of {len(before.nodes)} nodes at {before.address}; "
                "submit to it with --cluster local, or stop it with `vimctl cluster down`"
            )
        if before is not None:
            say("removing what is left of a cluster whose head is gone")
            _remove(before)
        record = _prepared(cpus, port)
        try:
            return _started(record, nodes, say)
        except BaseException:
            _remove(read() or record)
            raise


def down() -> Record | None:
    """End the cluster's own processes and forget it; what was there, or None."""
    with io.locked(place() / "lock"):
        record = read()
        if record is not None:
            _remove(record)
    return record


def ready(record: Record) -> int:
    """How many nodes have joined; 0 while the head does not answer yet."""
    token = Path(record.token_file).read_text(encoding="ascii")
    request = urllib.request.Request(f"{record.address}/api/v0/nodes", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            listed = json.load(answer)["data"]["result"]["result"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return sum(node["state"] == "ALIVE" for node in listed)


def _prepared(cpus: int, port: int) -> Record:
    token = place() / "token"
    token.unlink(missing_ok=True)
    with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as stream:
        stream.write(secrets.token_hex(32))
    address = f"http://{HOST}:{servers.free_port(port)}"
    # Ray's sockets lie below it, and the system takes no path to a socket beyond 107 letters.
    folder = tempfile.mkdtemp(prefix="vim-ray-", dir="/tmp")
    return Record(address, f"{HOST}:{servers.free_port(0)}", str(token), sys.executable, folder, cpus, [])


def _started(record: Record, nodes: int, say: Callable[[str], None]) -> Record:
    say(f"starting the head at {record.address} …")
    record = _joined(_node(record, 0, nodes), 1, nodes, say)
    if nodes > 1:
        say(f"starting {nodes - 1} workers of {record.cpus} CPUs …")
    for number in range(1, nodes):
        record = _node(record, number, nodes)
    return _joined(record, nodes, nodes, say)


def _node(record: Record, number: int, nodes: int) -> Record:
    """Start one node and write it down at once, so that `down` finds it whatever happens next."""
    command = [record.python, "-m", "pipelines.jobs.node", "start", *_words(record, number, nodes)]
    environment = {**os.environ, **SETTINGS, "RAY_AUTH_TOKEN_PATH": record.token_file, MARK: record.folder}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [os.fspath(CODE), os.environ.get("PYTHONPATH", "")]))
    # Of the caller's shell: they would lead workers and drivers elsewhere.
    for variable in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        environment.pop(variable, None)
    with open(_log(record, number), "wb") as out:
        process = subprocess.Popen(
            command, cwd=record.folder, env=environment, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    running = [*record.nodes[:number], processes.named(process.pid), *record.nodes[number + 1 :]]
    record = replace(record, nodes=running)
    io.write_bytes(os.fspath(place() / "cluster.json"), json.dumps(asdict(record), indent=2).encode())
    return record


def _words(record: Record, number: int, nodes: int) -> list[str]:
    """What `ray start` is told for the head (0) or a worker."""
    common = [
        "--block", f"--node-ip-address={HOST}", "--dashboard-agent-listen-port=0", "--min-worker-port=0",
        "--max-worker-port=0", f"--object-store-memory={OBJECTS_BYTES}", "--include-log-monitor=false",
        "--disable-usage-stats",
    ]  # fmt: skip
    if number:
        # Several nodes share the machine's GPUs, which Ray would count for each of them.
        gpus = [] if number == 1 else ["--num-gpus=0"]
        return [*common, f"--address={record.ray_address}", f"--num-cpus={record.cpus}", *gpus]
    return [
        *common, "--head", f"--port={record.ray_address.rpartition(':')[2]}", f"--temp-dir={record.folder}",
        f"--dashboard-host={HOST}", f"--dashboard-port={record.address.rpartition(':')[2]}",
        f"--ray-client-server-port={servers.free_port(0)}", f"--num-cpus={record.cpus if nodes == 1 else 0}",
    ]  # fmt: skip


def _joined(record: Record, wanted: int, nodes: int, say: Callable[[str], None]) -> Record:
    """Wait until so many nodes are there."""
    deadline, again = time.monotonic() + READY_S, RESTARTS
    while (joined := ready(record)) < wanted:
        for number in [number for number, node in enumerate(record.nodes) if node.found() is None]:
            lines = _log(record, number).read_text(errors="replace").strip().splitlines()
            if not again or LATE not in " ".join(lines):
                raise VimError(
                    f"node {number} of the local cluster ended; the end of its log: {' | '.join(lines[-5:])}"
                )
            say(f"node {number} was late, as on a busy machine; starting it again …")
            record, again = _node(record, number, nodes), again - 1
        if time.monotonic() > deadline:
            raise VimError(f"the local cluster has {joined} of {nodes} nodes after {READY_S:.0f} s; try again")
        time.sleep(POLL_S)
    return record


def _log(record: Record, number: int) -> Path:
    return Path(record.folder, f"node-{number}.log")


def _remove(record: Record) -> None:
    roots = [process for node in record.nodes if (process := node.found()) is not None]
    processes.end([*roots, *processes.marked(MARK, record.folder)])
    shutil.rmtree(record.folder, ignore_errors=True)
    for name in ("cluster.json", "token"):
        with contextlib.suppress(FileNotFoundError):
            (place() / name).unlink()
