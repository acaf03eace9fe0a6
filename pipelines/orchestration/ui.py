"""MLflow and Dagster on loopback, over a root's runs and artifacts, until interrupted; one of them a root."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from components.contract import code
from components.engines.environment import short_temp
from components.tracking.link import Link, ServerAway, ServerRefused, artifact_location, tracking_uri
from components.tracking.pages import PIPELINES, VIEW_TAG, describe_experiment, runs_page
from components.tracking.parent import open_experiment
from components.tracking.relocate import relocate
from pipelines import presets
from pipelines.orchestration import history, running
from pipelines.orchestration.servers import HOST, Server, free_port
from pipelines.orchestration.session import MLFLOW_EXPERIMENT, MLFLOW_URL
from vim_core.config import PipelineConfig
from vim_core.storage import io

if TYPE_CHECKING:
    from rich.console import Console

CODE = Path(__file__).resolve().parents[2]
POLL_S = 1.0


class _Terminated(KeyboardInterrupt):
    """SIGTERM: whoever sent it does not wait."""


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


def serve(config: PipelineConfig, servers: Sequence[Server], links: Sequence[tuple[str, str]], console: Console) -> int:
    """Start the servers, print their addresses and `links` (name, address), wait for Ctrl-C or SIGTERM, stop them.

    Where servers of this root run already, their addresses are printed and nothing is started. Ctrl-C waits for
    scheduled sweeps that run; a second one, or SIGTERM, hands them over to the next start. Returns 0.

    Raises `ServerError` when a server does not start or ends by itself.
    """
    with running.claimed(config) as other:
        if other is not None:
            text = f"these run already for {io.absolute(config.run.root)} (process {other.pid}):"
            console.print(text, highlight=False, soft_wrap=True)
            for name, address in other.addresses.items():
                _print_address(console, name, address)
            return 0
        signal.signal(signal.SIGTERM, _terminate)
        console.print("starting …", highlight=False)
        try:
            addresses = _start(config, servers, links, console)
            running.announce(config, addresses, {server.name: server.address for server in servers})
            console.print("Ctrl-C stops them", highlight=False)
            while True:
                time.sleep(POLL_S)
                for server in servers:
                    server.check()
        except KeyboardInterrupt as reason:
            _finish_sweeps(config, console, wait=not isinstance(reason, _Terminated))
            console.print("\nstopping …", highlight=False)
            return 0
        finally:
            for server in servers:
                server.stop()


def _terminate(*_: object) -> NoReturn:
    raise _Terminated


def _start(
    config: PipelineConfig, servers: Sequence[Server], links: Sequence[tuple[str, str]], console: Console
) -> dict[str, str]:
    """Start the servers, wait for them and print the addresses, which are returned by name."""
    experiment = find_experiment(config)
    for server in servers:
        server.environment = {**server.environment, MLFLOW_EXPERIMENT: experiment}
        server.start()
    addresses: dict[str, str] = {}

    def show(name: str, address: str) -> None:
        addresses[name] = runs_page(address, experiment) if name == "MLflow" else address
        _print_address(console, name, addresses[name])

    for server in servers:
        server.wait_ready()
        show(server.name, server.address)
        if server.note:
            _print_address(console, "", server.note)
    for name, address in links:
        show(name, address)
    return addresses


def _finish_sweeps(config: PipelineConfig, console: Console, wait: bool) -> None:
    """Wait for scheduled sweeps that run here, while no other starts; mark those that are cut short for the next UI."""
    try:
        with history.instance(config) as instance:
            sweeps = history.active_sweeps(instance)
            if wait and sweeps:
                running.drain(config)
                names = ", ".join(sorted(set(sweeps.values())))
                text = f"\nwaiting for the scheduled {names}; Ctrl-C again stops it, and the next `vimctl ui` goes on"
                console.print(text, highlight=False, soft_wrap=True)
                with contextlib.suppress(KeyboardInterrupt):
                    while sweeps:
                        time.sleep(POLL_S)
                        sweeps = history.active_sweeps(instance)
            history.hand_over(instance, sweeps)
    except KeyboardInterrupt:  # impatient: what runs is found as lost at the next start
        return


def find_experiment(config: PipelineConfig) -> str:
    """The id of the preset's experiment, or '' where tracking is off or MLflow does not answer.

    In this root's own database it is made where it is not there yet, and others of earlier versions get their view.
    """
    uri = tracking_uri(config.run)

    def look(client: Any) -> str:
        if not (uri or "").startswith("sqlite:"):
            known = client.get_experiment_by_name(config.preset)
            return str(known.experiment_id) if known is not None else ""
        for experiment in client.search_experiments():
            identity = experiment.experiment_id
            if VIEW_TAG not in experiment.tags and client.search_runs([identity], PIPELINES, max_results=1):
                describe_experiment(client, identity)
        return open_experiment(client, config)

    try:
        return Link(uri).call(look) if uri else ""
    except (ServerAway, ServerRefused):
        return ""


def mlflow_server(config: PipelineConfig, uri: str, port: int) -> Server:
    """MLflow's server over the database at `uri`."""
    chosen = free_port(port)
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(chosen), "--workers", "1"]
    command += ["--backend-store-uri", uri]
    location = artifact_location(config.run)
    if location is not None:
        io.make_folder(config.run.root)
        if io.exists(io.join(config.run.root, "mlflow.db")):
            relocate(io.local_path(config.run.root) / "mlflow.db")
        command += ["--default-artifact-root", location]
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment |= code.child_environment()
    return Server("MLflow", chosen, command, environment, "/health", _log_file(config, "mlflow"), port)


def dagster_server(config: PipelineConfig, preset: str, overrides: list[str], port: int) -> Server:
    """Dagster's web server and daemon over the history of this root, with the preset's assets."""
    chosen = free_port(port)
    command = [sys.executable, "-m", "dagster", "dev", "-m", "pipelines.definitions", "-d", os.fspath(CODE)]
    command += ["--host", HOST, "--port", str(chosen), "--log-level", "warning"]
    environment = {
        "DAGSTER_HOME": os.fspath(history.dagster_home(config)),
        "VIM_PRESET": presets.absolute(preset),
        "VIM_OVERRIDES": shlex.join([*overrides, f"run.root={io.absolute(config.run.root)}"]),
        **code.child_environment(),
        "TMPDIR": short_temp(),  # for the socket of its code server
        "DAGSTER_DISABLE_TELEMETRY": "true",
    }
    return Server("Dagster", chosen, command, environment, "/server_info", _log_file(config, "dagster"), port)


def _log_file(config: PipelineConfig, name: str) -> Path:
    # Not `logs`: Dagster empties that one.
    return history.dagster_home(config) / "server-logs" / f"{name}.log"


def _print_address(console: Console, name: str, address: str) -> None:
    console.print(f"{name:<8} {address}", highlight=False, soft_wrap=True)
