"""Servers: ports, readiness, what is said when one ends, and that stopping takes everything down."""

from __future__ import annotations

import shlex
import socket
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines.orchestration import session, ui
from pipelines.orchestration.servers import HOST, Server, ServerError, free_port
from tests.support.common import eventually

SERVE = (
    "import http.server as h, sys\n"
    "h.HTTPServer(('127.0.0.1', int(sys.argv[1])), h.SimpleHTTPRequestHandler).serve_forever()"
)
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SERVE!r}, sys.argv[1]])"


def server(tmp_path: Path, script: str) -> Server:
    port = free_port(0)
    return Server("Test", port, [sys.executable, "-c", script, str(port)], {}, "/", tmp_path / "logs" / "test.log")


def test_a_taken_port_is_replaced_by_a_free_one() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        chosen = free_port(port)
        assert chosen != port
    assert free_port(chosen) == chosen


def test_a_server_is_waited_for_and_stopped_with_its_children(tmp_path: Path) -> None:
    made = server(tmp_path, PARENT)
    made.start()
    made.wait_ready()
    assert made._process is not None
    family = [psutil.Process(made._process.pid), *psutil.Process(made._process.pid).children(recursive=True)]
    assert len(family) == 2
    made.check()
    made.stop()
    eventually(lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family))


def test_a_server_that_ends_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    made = server(tmp_path, "import sys; sys.exit('the database is locked')")
    made.start()
    with pytest.raises(ServerError, match=r"Test ended with status 1.*the database is locked"):
        made.wait_ready()
    made.stop()


def test_dagster_gets_the_preset_the_overrides_and_the_absolute_root(
    flow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(flow.config.run.root).parent)
    flow.config.run.root = "root"
    made = ui.dagster_server(flow.config, "conf/own.yaml", ["ingest.classes=[a b]"], 0)
    here = Path.cwd()
    assert made.environment["VIM_PRESET"] == str(here / "conf" / "own.yaml")
    assert shlex.split(made.environment["VIM_OVERRIDES"]) == ["ingest.classes=[a b]", f"run.root={here}/root"]
    assert made.environment["DAGSTER_HOME"] == str(here / "root" / "dagster")
    assert HOST in made.command
    assert ui.dagster_server(flow.config, "digits", [], 0).environment["VIM_PRESET"] == "digits"


def test_assets_link_to_the_mlflow_that_people_see(flow: Any) -> None:
    flow.config.run.tracking_uri = ""
    mlflow, dagster = ui.servers(flow.config, "digits", [], 0, 0)
    assert (mlflow.name, dagster.name) == ("MLflow", "Dagster")
    assert dagster.environment[session.MLFLOW_URL] == mlflow.address
    flow.config.run.tracking_uri = "http://mlflow.example.org"
    (dagster,) = ui.servers(flow.config, "digits", [], 0, 0)
    assert session.MLFLOW_URL not in dagster.environment
