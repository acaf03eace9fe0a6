"""Servers: ports, readiness, what is said when one ends, and that stopping takes everything down."""

from __future__ import annotations

import os
import shlex
import socket
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from components.contract import code
from pipelines.orchestration import history, running, session, ui
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
    made = Server("Test", chosen, [], {}, "/", Path("log"), wanted=port)
    assert made.note == f"port {port} is taken: {chosen} instead"
    assert Server("Test", chosen, [], {}, "/", Path("log"), wanted=chosen).note == ""


def test_a_second_interface_of_a_root_says_where_the_first_is(
    flow: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running.claimed(flow.config) as other:
        assert other is None
    running.announce(flow.config, {"MLflow": "http://127.0.0.1:1/#/experiments/1/runs"}, {"MLflow": "http://here"})
    second = server(tmp_path, SERVE)
    assert ui.serve(flow.config, [second], [], Console()) == 0
    assert second._process is None
    said = capsys.readouterr().out
    assert f"process {os.getpid()}" in said
    assert "http://127.0.0.1:1/#/experiments/1/runs" in said
    running.drain(flow.config)
    assert running.is_stopping(flow.config)
    record = history.dagster_home(flow.config) / running.FILE
    record.write_text(record.read_text().replace(f'"pid": {os.getpid()}', '"pid": 4194999'))
    assert not running.is_stopping(flow.config)
    with running.claimed(flow.config) as other:
        assert other is None, "its process is gone"
    assert running.mlflow_server(flow.config) == "http://here", "for links until the new one is up"


@pytest.mark.parametrize("wait", [True, False])
def test_stopping_waits_for_a_scheduled_sweep_or_hands_it_over(
    flow: Any, wait: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import dagster as dg

    running.announce(flow.config, {}, {})
    with history.instance(flow.config) as instance:
        tags = {history.SCHEDULE_TAG: "nightly"}
        run = instance.add_run(dg.DagsterRun(job_name="sweep", tags=tags, status=dg.DagsterRunStatus.STARTED))

        def end(seconds: float) -> None:
            assert running.is_stopping(flow.config)
            instance.report_run_failed(run)

        monkeypatch.setattr(time, "sleep", end)
        ui._finish_sweeps(flow.config, Console(), wait)
        assert ("waiting for the scheduled nightly" in capsys.readouterr().out) is wait
        assert history.take_over(instance) == []
        if not wait:
            instance.report_run_failed(run)
            assert [each.run_id for each in history.take_over(instance)] == [run.run_id]
            assert history.take_over(instance) == []


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
    # The current folder, with another `components` in it perhaps, is not before ours.
    assert all(server.environment.items() >= code.child_environment().items() for server in (mlflow, dagster))
    assert dagster.environment[session.MLFLOW_URL] == mlflow.address
    flow.config.run.tracking_uri = "http://mlflow.example.org"
    (dagster,) = ui.servers(flow.config, "digits", [], 0, 0)
    assert session.MLFLOW_URL not in dagster.environment
