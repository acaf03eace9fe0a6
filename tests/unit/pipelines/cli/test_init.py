"""`vimctl init` writes a preset, prints what it saw and the next command, and replaces nothing unasked."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.proposal import timing
from pipelines import presets
from pipelines.cli import main as cli
from tests.support.pictures import folder_of_pictures


def test_a_preset_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(timing, "MeasuredSteps", lambda *_: lambda config, names: dict.fromkeys(names, 0.01))
    monkeypatch.chdir(tmp_path)
    folder_of_pictures(tmp_path / "My birds", ["disc", "square"], 12)
    assert cli.main(["init", "My birds", "--minutes", "3"]) == 0
    printed = capsys.readouterr().out
    assert "24 images, 2 classes of 12 each" in printed
    assert f"vimctl run --preset {tmp_path}/My-birds.yaml" in printed
    config = presets.load("My-birds.yaml", [])
    assert config.ingest.source == str(tmp_path / "My birds")
    before = Path("My-birds.yaml").read_bytes()
    assert cli.main(["init", "My birds"]) == 2
    assert "My-birds.yaml: exists; give another file with --out, or --force" in capsys.readouterr().err
    assert Path("My-birds.yaml").read_bytes() == before
    assert cli.main(["init", "My birds", "--force", "--minutes", "30"]) == 0
    assert Path("My-birds.yaml").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: does not exist"),
        (["nowhere", "--out", "my.txt"], "--out=my.txt: a preset's file ends in .yaml"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", *arguments]) in (1, 2)
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
