"""MLflow and Dagster on loopback, over a root's runs and artifacts, until interrupted."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.tracking.link import artifact_location, tracking_uri
from pipelines import presets
from pipelines.orchestration import history
from pipelines.orchestration.servers import HOST, Server, free_port
from pipelines.orchestration.session import MLFLOW_URL
from vim_core.config import PipelineConfig
from vim_core.storage import io

if TYPE_CHECKING:
    from rich.console import Console

CODE = Path(__file__).resolve().parents[2]


def servers(
    config: PipelineConfig, preset: str, overrides: list[str], mlflow_port: int, dagster_port: int
) -> list[Server]:
    """The servers to start: MLflow's, unless there is one already or tracking is off, and Dagster's."""
    dagster = dagster_server(config, preset, overrides, dagster_port)
    uri = tracking_uri(config.run)
    if uri is None or uri.startswith("http"):
        return [dagster]
    mlflow = mlflow_server(config, uri, mlflow_port)
    # Assets link to their runs, which are tracked in a database and shown at this address.
    dagster.environment = {**dagster.environment, MLFLOW_URL: mlflow.address}
    return [mlflow, dagster]


def serve(servers: Sequence[Server], links: Sequence[tuple[str, str]], console: Console) -> int:
    """Start the servers, print their addresses and `links` (name, address), wait for Ctrl-C or SIGTERM, stop them.

    Returns 0. Raises `ServerError` when one of them does not start or ends by itself.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for server in servers:
            server.start()
        console.print("starting …", highlight=False)
        for server in servers:
            server.wait_ready()
            _print_address(console, server.name, server.address)
        for name, address in links:
            _print_address(console, name, address)
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


def mlflow_server(config: PipelineConfig, uri: str, port: int) -> Server:
    """MLflow's server over the database at `uri`."""
    chosen = free_port(port)
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(chosen), "--workers", "1"]
    command += ["--backend-store-uri", uri]
    location = artifact_location(config.run)
    if location is not None:
        io.make_folder(config.run.root)
        command += ["--default-artifact-root", location]
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return Server("MLflow", chosen, command, environment, "/health", _log_file(config, "mlflow"))


def dagster_server(config: PipelineConfig, preset: str, overrides: list[str], port: int) -> Server:
    """Dagster's web server and daemon over the history of this root, with the preset's assets."""
    chosen = free_port(port)
    command = [sys.executable, "-m", "dagster", "dev", "-m", "pipelines.definitions", "-d", os.fspath(CODE)]
    command += ["--host", HOST, "--port", str(chosen), "--log-level", "warning"]
    environment = {
        "DAGSTER_HOME": os.fspath(history.dagster_home(config)),
        "VIM_PRESET": presets.absolute(preset),
        "VIM_OVERRIDES": shlex.join([*overrides, f"run.root={io.absolute(config.run.root)}"]),
        "PYTHONPATH": os.pathsep.join(filter(None, [os.fspath(CODE), os.environ.get("PYTHONPATH", "")])),
        "DAGSTER_DISABLE_TELEMETRY": "true",
    }
    return Server("Dagster", chosen, command, environment, "/server_info", _log_file(config, "dagster"))


def _log_file(config: PipelineConfig, name: str) -> Path:
    # Not `logs`: Dagster empties that one.
    return history.dagster_home(config) / "server-logs" / f"{name}.log"


def _print_address(console: Console, name: str, address: str) -> None:
    console.print(f"{name:<8} {address}", highlight=False, soft_wrap=True)
