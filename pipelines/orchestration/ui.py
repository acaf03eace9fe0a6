"""`vimctl ui`: MLflow and Dagster on loopback, showing what a root has, until interrupted."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from components.tracking.link import artifact_location, tracking_uri
from pipelines.orchestration import history
from pipelines.orchestration.servers import HOST, Server, free_port
from vim_core.config import PipelineConfig
from vim_core.errors import VimError
from vim_core.storage import io

if TYPE_CHECKING:
    from rich.console import Console

MLFLOW_URL = "VIM_MLFLOW_URL"
"""Where people see MLflow, for whoever makes links to it."""
LOCAL = "local"
"""The cluster that `vimctl cluster up` starts."""
CODE = Path(__file__).resolve().parents[2]


def serve(
    config: PipelineConfig, preset: str, overrides: list[str], mlflow_port: int, dagster_port: int, console: Console,
    cluster: str = "",
) -> int:  # fmt: skip
    """Start the servers, print their addresses and Ray's, wait for Ctrl-C or a signal to end, stop them.

    Raises `ServerError` when one of them does not start or ends by itself, `ConfigError` for an unknown `cluster`.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    uri = tracking_uri(config.run)
    links = ray_links(cluster)
    servers = [dagster_server(config, preset, overrides, dagster_port)]
    if uri is not None and not uri.startswith("http"):
        servers.insert(0, mlflow_server(config, uri, mlflow_port))
        # Links from assets to their runs: the runs are tracked in a database, and people see it at this address.
        servers[1].environment = {**servers[1].environment, MLFLOW_URL: servers[0].address}
    try:
        for server in servers:
            server.start()
        console.print("starting …", highlight=False)
        for server in servers:
            server.wait_ready()
            _line(console, server.name, server.address)
        if uri is None or uri.startswith("http"):
            _line(console, "MLflow", uri or "off (run.tracking_uri=off)")
        for link in links:
            _line(console, "Ray", link)
        console.print("Ctrl-C stops them", highlight=False)
        while True:
            time.sleep(1.0)
            for server in servers:
                server.check()
    except KeyboardInterrupt:
        console.print("\nstopping …", highlight=False)
        return 0
    finally:
        for server in servers:
            server.stop()


def ray_links(cluster: str) -> list[str]:
    """The dashboard of a cluster by name; without a name that of the local one, where it runs.

    Raises:
        ConfigError: there is no such cluster.
        VimError: it does not answer.
    """
    from pipelines.jobs import profile, submission

    if cluster:
        chosen = profile.load(cluster)
        found = submission.backend(chosen).dashboard()
        return [f"{found} ({chosen.name})" if found else f"no dashboard is known of {chosen.name}"]
    try:
        found = submission.backend(profile.load(LOCAL)).dashboard()
    except VimError:
        return []  # nobody has started it, which is no reason to show nothing else
    return [f"{found} ({LOCAL})"] if found else []


def mlflow_server(config: PipelineConfig, uri: str, port: int) -> Server:
    """MLflow's server over the database at `uri`."""
    chosen = free_port(port)
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(chosen), "--workers", "1"]
    command += ["--backend-store-uri", uri]
    where = artifact_location(config.run)
    if where is not None:
        io.make_folder(config.run.root)
        command += ["--default-artifact-root", where]
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return Server("MLflow", chosen, command, environment, "/health", _log(config, "mlflow"))


def dagster_server(config: PipelineConfig, preset: str, overrides: list[str], port: int) -> Server:
    """Dagster's web server and daemon over the history of this root, with the preset's assets."""
    chosen = free_port(port)
    command = [sys.executable, "-m", "dagster", "dev", "-m", "pipelines.definitions", "-d", os.fspath(CODE)]
    command += ["--host", HOST, "--port", str(chosen), "--log-level", "warning"]
    root = str(io.local_path(config.run.root).absolute()) if io.is_local(config.run.root) else config.run.root
    environment = {
        "DAGSTER_HOME": os.fspath(history.home(config)),
        "VIM_PRESET": os.path.abspath(preset) if preset.endswith((".yaml", ".yml")) else preset,
        "VIM_OVERRIDES": shlex.join([*overrides, f"run.root={root}"]),
        "PYTHONPATH": os.pathsep.join(filter(None, [os.fspath(CODE), os.environ.get("PYTHONPATH", "")])),
        "DAGSTER_DISABLE_TELEMETRY": "true",
    }
    return Server("Dagster", chosen, command, environment, "/server_info", _log(config, "dagster"))


def _log(config: PipelineConfig, name: str) -> Path:
    # Not `logs`: Dagster empties that one.
    return history.home(config) / "server-logs" / f"{name}.log"


def _line(console: Console, name: str, address: str) -> None:
    console.print(f"{name:<8} {address}", highlight=False, soft_wrap=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
