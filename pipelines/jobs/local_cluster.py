"""The Ray cluster that `vimctl cluster up` starts on this machine: several nodes, a token, on loopback only."""

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
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from components.artifacts.process import ProcessId, start_time
from components.contract import code
from components.contract.commands import command
from components.engines.environment import short_temp
from pipelines.orchestration import servers
from pipelines.orchestration.servers import HOST
from vim_core.config.decode import decode
from vim_core.errors import ConfigError, VimError
from vim_core.storage import io

START_S = 300.0
TERMINATE_S = 10.0
"""Seconds from SIGTERM to SIGKILL when the cluster is ended."""
POLL_S = 0.5
STARTUP_TIMEOUT, MAX_RESTARTS = "timed out during startup", 4
"""Ray's message when a node takes over 30 seconds to start (a busy machine), and the restarts after it at most."""
OBJECT_STORE_BYTES = 512 << 20
"""Shared memory of each node: VIM hardly uses Ray's object store."""
FOLDER_VARIABLE = "VIM_LOCAL_CLUSTER"
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray's setting to stay on 127.0.0.1, for nodes, workers and drivers."""
SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A killed node is detected after five seconds, not fifteen.
    "RAY_health_check_period_ms": "1000",
    # Time for a job that is stopped to release its leases and end its runs in MLflow.
    "RAY_JOB_STOP_WAIT_TIME_S": "20",
    **LOOPBACK,
}


@dataclass(frozen=True)
class LocalCluster:
    """The running cluster, as stored in cluster.json: `nodes` are the processes of its nodes, the head's first."""

    address: str
    ray_address: str
    token_file: str
    python: str
    folder: str
    cpus: int
    nodes: list[ProcessId]

    @property
    def alive(self) -> list[ProcessId]:
        """The nodes that run."""
        return [node for node in self.nodes if node.alive]

    @property
    def running(self) -> bool:
        """True if the head runs: without it there is no cluster."""
        return bool(self.nodes) and self.nodes[0].alive


def state_folder() -> Path:
    """The folder of token and cluster.json, below `VIM_STATE` or ~/.vim."""
    return Path(os.environ.get("VIM_STATE") or Path.home() / ".vim") / "clusters" / "local"


def read() -> LocalCluster | None:
    """The cluster of the last `up` that was not followed by `down`. Raises `ConfigError` for a damaged file."""
    path = state_folder() / "cluster.json"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        for node in tree["nodes"]:
            node["started"] = str(node["started"])  # earlier versions wrote Unix seconds as a number
        return decode(LocalCluster, tree)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, ConfigError) as error:
        raise ConfigError(f"{path}: not what `vimctl cluster up` writes ({error}); remove it") from error


def up(nodes: int, cpus: int, port: int, say: Callable[[str], None]) -> LocalCluster:
    """Start a head and `nodes` - 1 workers of `cpus` logical CPUs each, and wait until all have joined.

    With workers, the head has no CPUs and only coordinates, as on Kubernetes: drivers of jobs run there, so that a
    lost worker ends none. The rest of a cluster whose head died is removed first.

    Raises:
        ConfigError: one runs already, or a number is out of range.
        VimError: a node does not start; the message has the end of its log.
    """
    if nodes < 1 or cpus < 1:
        raise ConfigError(f"--nodes {nodes} --cpus {cpus}: a cluster has at least one node and CPU")
    with io.locked(state_folder() / "lock"):
        before = read()
        if before is not None and before.running:
            raise ConfigError(
                f"a local cluster runs already: {len(before.alive)} of {len(before.nodes)} nodes at {before.address}; "
                f"submit to it with --cluster local, or stop it with `{command('cluster', 'down')}`"
            )
        if before is not None:
            say("removing the rest of a cluster whose head has ended")
            _delete(before)
        cluster = _prepare(cpus, port)
        try:
            say(f"starting the head at {cluster.address} …")
            cluster = _wait_for_nodes(_start_node(cluster, 0, nodes), 1, nodes, say)
            if nodes > 1:
                say(f"starting {nodes - 1} workers of {cluster.cpus} CPUs …")
            for number in range(1, nodes):
                cluster = _start_node(cluster, number, nodes)
            return _wait_for_nodes(cluster, nodes, nodes, say)
        except BaseException:
            _delete(read() or cluster)
            raise


def down() -> LocalCluster | None:
    """End the cluster's processes and delete its record; return the cluster, or None if there was none."""
    with io.locked(state_folder() / "lock"):
        cluster = read()
        if cluster is not None:
            _delete(cluster)
    return cluster


def count_nodes(cluster: LocalCluster) -> int:
    """Return the number of nodes that have joined; 0 while the head does not answer yet."""
    token = Path(cluster.token_file).read_text(encoding="ascii")
    request = urllib.request.Request(f"{cluster.address}/api/v0/nodes", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            listed = json.load(answer)["data"]["result"]["result"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return sum(node["state"] == "ALIVE" for node in listed)


def _prepare(cpus: int, port: int) -> LocalCluster:
    """A cluster without nodes yet: a new token, a folder, free ports."""
    token = state_folder() / "token"
    token.unlink(missing_ok=True)
    with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as stream:
        stream.write(secrets.token_hex(32))
    address = f"http://{HOST}:{servers.free_port(port)}"
    # Ray's sockets lie below it; a path to a socket has at most 107 letters.
    folder = tempfile.mkdtemp(prefix="vim-ray-", dir="/tmp")
    return LocalCluster(address, f"{HOST}:{servers.free_port(0)}", str(token), sys.executable, folder, cpus, [])


def _start_node(cluster: LocalCluster, number: int, nodes: int) -> LocalCluster:
    """Start one node and store its process at once, so that `down` finds it after any failure."""
    command = [
        cluster.python, "-m", "pipelines.jobs.local_cluster", "start", "--block", f"--node-ip-address={HOST}",
        "--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0",
        f"--object-store-memory={OBJECT_STORE_BYTES}", "--include-log-monitor=false", "--disable-usage-stats",
    ]  # fmt: skip
    if number:
        # Several nodes share the machine's GPUs, which Ray would count for each of them.
        gpus = [] if number == 1 else ["--num-gpus=0"]
        command += [f"--address={cluster.ray_address}", f"--num-cpus={cluster.cpus}", *gpus]
    else:
        command += [
            "--head", f"--port={cluster.ray_address.rpartition(':')[2]}", f"--temp-dir={cluster.folder}",
            f"--dashboard-host={HOST}", f"--dashboard-port={cluster.address.rpartition(':')[2]}",
            f"--ray-client-server-port={servers.free_port(0)}", f"--num-cpus={cluster.cpus if nodes == 1 else 0}",
        ]  # fmt: skip
    environment = {**os.environ, **SETTINGS, "RAY_AUTH_TOKEN_PATH": cluster.token_file, FOLDER_VARIABLE: cluster.folder}
    environment |= {**code.child_environment(), "TMPDIR": short_temp(), "RAY_TMPDIR": short_temp()}
    # Variables of the caller's shell could point workers and drivers to another cluster.
    for variable in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        environment.pop(variable, None)
    with open(Path(cluster.folder, f"node-{number}.log"), "wb") as out:
        node = subprocess.Popen(
            command, cwd=cluster.folder, env=environment, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    started = ProcessId(node.pid, start_time(node.pid) or "")
    cluster = replace(cluster, nodes=[*cluster.nodes[:number], started, *cluster.nodes[number + 1 :]])
    io.write_bytes(os.fspath(state_folder() / "cluster.json"), json.dumps(asdict(cluster), indent=2).encode())
    return cluster


def _wait_for_nodes(cluster: LocalCluster, wanted: int, nodes: int, say: Callable[[str], None]) -> LocalCluster:
    """Wait until `wanted` nodes have joined; one that timed out in Ray is started again."""
    deadline, again = time.monotonic() + START_S, MAX_RESTARTS
    while (joined := count_nodes(cluster)) < wanted:
        for number in [number for number, node in enumerate(cluster.nodes) if not node.alive]:
            lines = Path(cluster.folder, f"node-{number}.log").read_text(errors="replace").strip().splitlines()
            if not again or STARTUP_TIMEOUT not in " ".join(lines):
                raise VimError(
                    f"node {number} of the local cluster ended; the end of its log: {' | '.join(lines[-5:])}"
                )
            say(f"node {number} timed out while starting (a busy machine?); starting it again …")
            cluster, again = _start_node(cluster, number, nodes), again - 1
        if time.monotonic() > deadline:
            raise VimError(f"the local cluster has {joined} of {nodes} nodes after {START_S:.0f} s; try again")
        time.sleep(POLL_S)
    return cluster


def _delete(cluster: LocalCluster) -> None:
    """End the nodes, all that carries the cluster's variable, and their children; remove the cluster's files."""
    nodes = {node.pid for node in cluster.alive}
    family: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid in nodes or process.environ().get(FOLDER_VARIABLE) == cluster.folder:
                family |= {member.pid: member for member in (process, *process.children(recursive=True))}
    for act in ("terminate", "kill"):
        for process in family.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(process, act)()  # psutil checks that the id still belongs to this process
        psutil.wait_procs(list(family.values()), timeout=TERMINATE_S)
    shutil.rmtree(cluster.folder, ignore_errors=True)
    for name in ("cluster.json", "token"):
        with contextlib.suppress(FileNotFoundError):
            (state_folder() / name).unlink()


def _run_node() -> None:
    """`python -m pipelines.jobs.local_cluster start …`: `ray start` for one of several nodes on loopback.

    Ray would put the machine's own address in place of 127.0.0.1 and listen to the network, or, restricted to
    loopback as on macOS (`LOOPBACK`), refuse a second node.
    """
    from ray._private import ray_constants, services
    from ray.scripts import scripts

    services.get_node_ip_address = lambda address=None: HOST
    ray_constants.ENABLE_RAY_CLUSTER = True
    scripts.main()


if __name__ == "__main__":
    _run_node()
