"""The command that measures VIM-Large in parts, at toy size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import large

pytestmark = pytest.mark.slow


def test_workers_build_write_and_load_their_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "results" / "large.json"
    work = tmp_path / "work"
    work.mkdir()
    assert large.main(["--toy", "--work", str(work), "--result", str(result)]) == 0
    record = json.loads(result.read_text())
    assert record["parameters"] == sum(p.numel() for p in large.network(toy=True).parameters())
    assert [row["worker"] for row in record["workers"]] == [0, 1]
    for row in record["workers"]:
        assert record["columns"].keys() == row.keys() - {"worker"}
        assert 0 < row["idle"] <= row["build"] <= row["save"]
        assert row["load"] > 0
    assert not list(work.iterdir()), "what was written is removed"
    assert json.loads(capsys.readouterr().out) == record


def test_a_machine_without_room_is_refused_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "available", lambda: 10e9)
    with pytest.raises(RuntimeError, match=r"10\.0 GB of memory are free, 16\.8 are needed"):
        large.measure(None, toy=False)


def test_the_kept_record_is_of_vim_large() -> None:
    record = json.loads(large.RESULT.read_text())
    assert record["name"] == "VIM-Large in parts"
    assert record["full_copy_gb"] == round(large.full_copy(toy=False)["bytes"] / large.GB, 3)
    for row in record["workers"]:
        assert row["part"] == pytest.approx(record["full_copy_gb"] / 2, rel=0.01)
        assert max(row["build"], row["load"]) < record["full_copy_gb"]
