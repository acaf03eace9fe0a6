"""The shared run of the `smoke` preset: made once, copied, refused where other sources made it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support import smoke


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Runs are made up: two artifacts, a report and MLflow's database."""
    seen: list[Path] = []

    def vimctl(*arguments: str, root: Path) -> Any:
        seen.append(root)
        for name in ("ingest", "quantize"):
            (root / name / f"{name}-key").mkdir(parents=True)
            record = {"created": "now", "fingerprint": f"{name}-key"}
            (root / name / f"{name}-key" / "manifest.json").write_text(json.dumps(record))
        (root / "reports" / "smoke").mkdir(parents=True)
        (root / "reports" / "smoke" / "results.json").write_text('{"preset": "smoke"}')
        (root / "reports" / "smoke" / "report.html").write_text("page")
        with closing(sqlite3.connect(root / "mlflow.db")) as connection, connection:
            connection.execute("CREATE TABLE experiments (artifact_location TEXT)")
            connection.execute("CREATE TABLE runs (artifact_uri TEXT)")
            connection.execute("INSERT INTO experiments VALUES (?)", (f"file://{root}/mlartifacts",))
            connection.execute("INSERT INTO runs VALUES (?)", (f"file://{root}/mlartifacts/1",))

        class Finished:
            text = "done"

        return Finished()

    monkeypatch.setattr(smoke, "vimctl", vimctl)
    monkeypatch.delenv(smoke.FOLDER, raising=False)
    return seen


def test_without_a_shared_folder_each_makes_its_own(calls: list[Path], tmp_path: Path) -> None:
    found = smoke.provided(tmp_path)
    assert calls == [tmp_path / "root"] == [found.root]
    assert (found.text, found.page, found.results) == ("done", "page", {"preset": "smoke"})
    assert set(found.manifests) == {"ingest", "quantize"}


def test_a_shared_run_is_made_once_and_copied(
    calls: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(smoke.FOLDER, str(tmp_path / "shared"))
    runs = [smoke.provided(tmp_path / name) for name in ("a", "b")]
    assert calls == [tmp_path / "shared" / "root"]
    assert [run.root for run in runs] == [tmp_path / "a" / "root", tmp_path / "b" / "root"]
    with closing(sqlite3.connect(runs[1].root / "mlflow.db")) as connection:
        places = connection.execute("SELECT * FROM experiments UNION SELECT * FROM runs").fetchall()
    assert {place for (place,) in places} == {f"file://{runs[1].root}/mlartifacts{end}" for end in ("", "/1")}


def test_what_other_sources_made_is_refused(calls: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(smoke.FOLDER, str(tmp_path / "shared"))
    smoke.main(["--make"])
    monkeypatch.setattr(smoke, "sources", lambda: "others")
    with pytest.raises(AssertionError, match="made by other sources"):
        smoke.provided(tmp_path / "own")
    smoke.main(["--sign"])
    smoke.provided(tmp_path / "own")


def test_a_branch_has_the_named_artifacts_alone(calls: list[Path], tmp_path: Path) -> None:
    run = smoke.provided(tmp_path)
    (run.root / "ingest" / "later").mkdir()
    target = smoke.branched(run, tmp_path / "branch", ["ingest"])
    assert [path.name for path in target.iterdir()] == ["ingest"]
    assert [path.name for path in (target / "ingest").iterdir()] == ["ingest-key"]
