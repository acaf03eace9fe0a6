"""`vimctl sweep schedule|list|pause|resume|unschedule` as people type them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipelines import presets
from pipelines.cli import main as cli
from pipelines.orchestration import history
from pipelines.schedules import due, state
from pipelines.sweeps import checkpoints

SETTINGS = ["--preset", "smoke"]


@pytest.fixture(autouse=True)
def own_root(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIM_ROOT", root)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What `vimctl sweep …` prints, on both streams."""
    assert cli.main(["sweep", *words]) == code
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_schedule_list_pause_resume_unschedule(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "schedule", "smoke", "--cron", "*/30 * * * *", "--missed", "latest", *SETTINGS)
    assert text.startswith("smoke: smoke at */30 * * * *, next 20")
    kept = state.read(root, "smoke")
    assert (kept.cron, kept.missed, kept.preset, kept.paused) == ("*/30 * * * *", "latest", "smoke", False)
    assert abs(kept.since - time.time()) < 60
    listed = said(capsys, "list", *SETTINGS)
    assert "*/30 * * * *" in listed
    assert "no daemon looks at" in listed
    assert "paused" in said(capsys, "pause", "smoke", *SETTINGS)
    assert "paused" in said(capsys, "list", *SETTINGS)
    assert "paused already" in said(capsys, "pause", "smoke", *SETTINGS, code=cli.CONFIG_ERROR)
    assert "runs again, next" in said(capsys, "resume", "smoke", *SETTINGS)
    assert state.read(root, "smoke").since > kept.since
    assert "not paused already" in said(capsys, "resume", "smoke", *SETTINGS, code=cli.CONFIG_ERROR)
    assert "no longer scheduled" in said(capsys, "unschedule", "smoke", *SETTINGS)
    assert state.names(root) == []
    assert "there is none" in said(capsys, "unschedule", "smoke", *SETTINGS, code=cli.CONFIG_ERROR)


def test_a_schedule_keeps_sweep_and_settings(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoints, "available", lambda config: [("prior", "aa", config.prior.steps)])
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text((presets.FOLDER / "smoke.yaml").read_text())
    Path("mine.yaml").write_text("points:\n- sample.guidance: 2.0\n")
    words = ["schedule", "mine.yaml", "--on-checkpoint", "prior", "--name", "watch", "--preset", "own.yaml"]
    said(capsys, *words, "prior.steps=9", f"run.root={root}")
    Path("mine.yaml").unlink()
    kept = state.read(root, "watch")
    assert "sample.guidance: 2.0" in kept.sweep
    assert kept.preset == str(tmp_path / "own.yaml")
    assert kept.overrides == ["prior.steps=9"]
    assert kept.known == ["prior/aa/9"], "checkpoints that are there already are not new"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["smoke", "--cron", "* * * *"], "--cron='* * * *'"),
        (["smoke", "--cron", "* * * * *", "--timezone", "Mars"], "--timezone='Mars'"),
        (["smoke", "--cron", "* * * * *", "--name", "../up"], "--name='../up'"),
        (["smoke", "--cron", "* * * * *", "--cluster", "nowhere"], "cluster 'nowhere' is unknown"),
        (["nothing", "--cron", "* * * * *"], "sweep 'nothing' is unknown"),
        (["smoke", "--cron", "* * * * *", "prior.stepz=9"], "did you mean prior.steps?"),
        (["latest.yaml", "--on-checkpoint", "prior"], "chooses checkpoints itself"),
    ],
)
def test_mistakes_are_named_when_they_are_made(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str], told: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("latest.yaml").write_text("points:\n- checkpoint: latest\n")
    assert told in said(capsys, "schedule", *words, *SETTINGS, code=cli.CONFIG_ERROR)
    assert state.names(root) == []


def test_the_last_run_is_listed(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    import dagster as dg

    said(capsys, "schedule", "smoke", "--cron", "* * * * *", *SETTINGS)
    with history.instance(presets.load("smoke", [])) as instance:
        for tag, status in (("smoke", dg.DagsterRunStatus.FAILURE), ("other", dg.DagsterRunStatus.SUCCESS)):
            instance.add_run(dg.DagsterRun(job_name="scheduled_sweep", tags={due.TAG: tag}, status=status))
    assert "failure 20" in said(capsys, "list", *SETTINGS)
