"""Servers: ports, readiness, what is said when one ends, and that stopping takes everything down."""

from __future__ import annotations

import io
import shlex
import socket
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from pipelines.orchestration import ui
from pipelines.orchestration.servers import HOST, Server, ServerError, free_port
from vim_core.errors import ConfigError

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
    psutil.wait_procs(family, timeout=10)
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family)


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


def test_mlflow_serves_the_roots_database(flow: Any) -> None:
    made = ui.mlflow_server(flow.config, "sqlite:////data/mlflow.db", 0)
    assert made.command[made.command.index("--backend-store-uri") + 1] == "sqlite:////data/mlflow.db"
    assert made.command[made.command.index("--host") + 1] == HOST


def test_ray_dashboards_are_linked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from pipelines.jobs import profile

    mine = tmp_path / "mine.yaml"
    mine.write_text("kind: jobs\naddress: http://head:8265\n")
    assert ui.ray_links(str(mine)) == ["http://head:8265 (mine)"]
    with pytest.raises(ConfigError, match="'nowhere' is unknown"):
        ui.ray_links("nowhere")
    local = profile.Cluster(name="local", address="")
    monkeypatch.setattr(profile, "load", lambda name: local)
    assert ui.ray_links("") == [], "no local cluster runs"
    local.address = "http://127.0.0.1:4321"
    assert ui.ray_links("") == ["http://127.0.0.1:4321 (local)"]


def test_assets_link_to_the_mlflow_that_people_see(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Server] = []
    monkeypatch.setattr(Server, "start", lambda self: started.append(self))
    monkeypatch.setattr(Server, "wait_ready", lambda self: None)
    monkeypatch.setattr(Server, "check", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(ui, "ray_links", lambda cluster: [])
    monkeypatch.setattr("pipelines.orchestration.ui.signal.signal", lambda *words: None)
    monkeypatch.setattr("pipelines.orchestration.ui.time.sleep", lambda seconds: None)
    flow.config.run.tracking_uri = ""
    out = Console(file=io.StringIO())
    assert ui.serve(flow.config, "digits", [], 0, 0, out) == 0
    mlflow, dagster = started
    assert (mlflow.name, dagster.name) == ("MLflow", "Dagster")
    assert dagster.environment[ui.MLFLOW_URL] == mlflow.address
    started.clear()
    flow.config.run.tracking_uri = "http://mlflow.example.org"
    ui.serve(flow.config, "digits", [], 0, 0, out)
    (dagster,) = started
    assert ui.MLFLOW_URL not in dagster.environment
