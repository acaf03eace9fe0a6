"""What an MLflow server says to a client that asks for the preset's experiment."""

from __future__ import annotations

import sqlite3
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from pipelines.doctor import mlflow_server
from pipelines.doctor.checks import FAIL, OK, WARN, Result, Target
from tests.support.common import free_port
from tests.support.http_servers import answering
from vim_core.config import PipelineConfig, RunConfig


def check(uri: str, root: str = "artifacts") -> list[Result]:
    return mlflow_server.check_server(Target(PipelineConfig("fake", [], RunConfig(root=root, tracking_uri=uri))))


def server(get: Any, create: Any = (200, {"experiment_id": "1"}), version: str = "") -> Any:
    version = version or metadata.version("mlflow")

    def reply(method: str, path: str, headers: dict[str, str]) -> Any:
        if path == "/version":
            return (200, version)
        return get if "get-by-name?experiment_name=fake" in path else create

    return answering(reply)


def test_a_server_that_has_the_experiment() -> None:
    with server((200, {"experiment": {}})) as uri:
        assert [each.status for each in check(uri)] == [OK, OK]


def test_a_missing_experiment_is_made() -> None:
    with server((404, {"error_code": "RESOURCE_DOES_NOT_EXIST"})) as uri:
        assert check(uri)[1].found == "fake: made"
    with server((404, {"error_code": "RESOURCE_DOES_NOT_EXIST"}), (500, "read-only database")) as uri:
        assert (check(uri)[1].status, "read-only database" in check(uri)[1].found) == (FAIL, True)


def test_a_server_that_does_not_serve_this_name() -> None:
    with server((403, "Invalid Host header - possible DNS rebinding attack detected")) as uri:
        (found,) = check(uri)
    assert found.status == FAIL
    assert f"--allowed-hosts {uri.removeprefix('http://')}" in found.advice


def test_a_server_that_wants_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(method: str, path: str, headers: dict[str, str]) -> Any:
        right = headers.get("Authorization") == "Basic dTpw"
        return (200, {"experiment": {}}) if right else (401, "You are not authenticated.")

    with answering(reply) as uri:
        assert "MLFLOW_TRACKING_USERNAME" in check(uri)[0].advice
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "u")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p")
        assert FAIL not in [each.status for each in check(uri)]


def test_an_old_server_something_else_and_nobody() -> None:
    with server((200, {"experiment": {}}), version="2.22.0") as uri:
        assert check(uri)[0].status == WARN
    with answering(lambda method, path, headers: (404, "<html>")) as uri:
        assert "something else than MLflow" in check(uri)[0].found
    (found,) = check(f"http://127.0.0.1:{free_port()}")
    assert (found.status, "refused" in found.found) == (FAIL, True)
    (found,) = check("http://mlflow.vim.svc.nowhere.invalid:5000")
    assert (found.status, "kubectl port-forward" in found.advice) == (WARN, True)
    (found,) = check("postgresql://vim:secret@host/mlflow")
    assert "secret" not in found.found


def test_a_local_database(tmp_path: Path) -> None:
    assert "made by the first run" in check("", str(tmp_path))[0].found
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE runs (run_uuid TEXT)")
    assert check("", str(tmp_path))[0].found.endswith("0 runs")
    path.write_bytes(b"not a database at all, but longer than a header of one would be" * 4)
    assert check("", str(tmp_path))[0].status == FAIL
    assert check("off")[0].status == OK
