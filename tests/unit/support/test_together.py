"""Test files side by side: each in one process, and a failure is seen."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support import smoke, together
from tests.support.common import REPOSITORY

FOLDERS = [REPOSITORY / "tests" / name for name in ("unit", "integration", "cluster")]


def test_every_test_file_is_in_one_job() -> None:
    found: list[Path] = []
    for job in together.jobs(FOLDERS, []):
        paths = [Path(word) for word in job.command if word.startswith(str(REPOSITORY / "tests"))]
        found += [file for path in paths for file in (path.rglob("test_*.py") if path.is_dir() else [path])]
    assert sorted(found) == sorted(file for folder in FOLDERS for file in folder.rglob("test_*.py"))


def test_the_smoke_run_is_first_and_those_that_wait_for_it_last() -> None:
    planned = together.jobs(FOLDERS[2:], ["-m", "cluster"])
    assert planned[0].command[-1] == "--make"
    waits = [job.waits for job in planned]
    assert waits == sorted(waits)
    assert any(waits)
    assert not any(job.waits for job in together.jobs(FOLDERS[:1], [])), "unit tests need no pipeline"
    assert not any(job.command[-1] == "--make" for job in together.jobs([REPOSITORY / "tests" / "xla"], []))


def test_one_failure_is_a_failure_and_all_output_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(smoke.FOLDER, str(tmp_path))
    (tmp_path / "test_good.py").touch()
    (tmp_path / "test_bad.py").touch()

    def planned(folders: list[Path], options: list[str]) -> list[together.Job]:
        assert (folders, options) == ([tmp_path], ["-m", "slow"])
        codes = {"good": 0, "bad": 3}
        script = "import sys; print('said by', sys.argv[1]); sys.exit(int(sys.argv[2]))"
        return [together.Job(name, (sys.executable, "-c", script, name, str(code))) for name, code in codes.items()]

    monkeypatch.setattr(together, "jobs", planned)
    assert together.main([str(tmp_path), "-m", "slow"]) == 1
    said = capsys.readouterr().out
    assert "said by good" in said
    assert "said by bad" in said
    assert "== failed: bad\n" in said
