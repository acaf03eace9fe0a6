"""`vimctl sweep schedule|list|pause|resume|unschedule` as people type them."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from components.training import prior_checkpoints
from pipelines import presets
from pipelines.cli import main as cli
from pipelines.orchestration import history
from pipelines.schedules import due, state

Capture = pytest.CaptureFixture[str]

SETTINGS = ["--preset", "smoke"]


@pytest.fixture(autouse=True)
def own_root(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIM_ROOT", root)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


def output(capsys: Capture, *words: str, code: int = 0) -> str:
    """The text that `vimctl sweep …` prints, on both streams."""
    assert cli.main(["sweep", *words]) == code
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_schedule_list_pause_resume_unschedule(root: str, capsys: Capture) -> None:
    text = output(capsys, "schedule", "smoke", "--cron", "*/30 * * * *", "--missed", "latest", *SETTINGS)
    assert text.startswith("smoke: smoke at */30 * * * *, next 20")
    stored = state.read(root, "smoke")
    assert (stored.cron, stored.missed, stored.preset, stored.paused) == ("*/30 * * * *", "latest", "smoke", False)
    assert abs(stored.since - time.time()) < 60
    listed = output(capsys, "list", *SETTINGS)
    assert "*/30 * * * *" in listed
    assert "no daemon looks at" in listed
    assert "paused" in output(capsys, "pause", "smoke", *SETTINGS)
    assert "paused" in output(capsys, "list", *SETTINGS)
    assert "paused already" in output(capsys, "pause", "smoke", *SETTINGS, code=cli.CONFIG_ERROR)
    assert "runs again, next" in output(capsys, "resume", "smoke", *SETTINGS)
    assert state.read(root, "smoke").since > stored.since
    assert "not paused already" in output(capsys, "resume", "smoke", *SETTINGS, code=cli.CONFIG_ERROR)
    assert "no longer scheduled" in output(capsys, "unschedule", "smoke", *SETTINGS)
    assert state.names(root) == []
    assert "there is none" in output(capsys, "unschedule", "smoke", *SETTINGS, code=cli.CONFIG_ERROR)


def test_a_schedule_keeps_sweep_and_settings(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(prior_checkpoints, "available", lambda config: [("prior", "aa", config.prior.steps)])
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text((presets.FOLDER / "smoke.yaml").read_text())
    Path("mine.yaml").write_text("points:\n- sample.guidance: 2.0\n")
    words = ["schedule", "mine.yaml", "--on-checkpoint", "prior", "--name", "watch", "--preset", "own.yaml"]
    output(capsys, *words, "prior.steps=9", f"run.root={root}")
    Path("mine.yaml").unlink()
    stored = state.read(root, "watch")
    assert "sample.guidance: 2.0" in stored.sweep
    assert stored.preset == str(tmp_path / "own.yaml")
    assert stored.overrides == ["prior.steps=9"]
    assert stored.known == ["prior/aa/9"], "checkpoints that are there already are not new"


@pytest.mark.parametrize(
    ("words", "message"),
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
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture,
    words: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("latest.yaml").write_text("points:\n- checkpoint: latest\n")
    assert message in output(capsys, "schedule", *words, *SETTINGS, code=cli.CONFIG_ERROR)
    assert state.names(root) == []


def test_the_last_run_is_listed_with_why_it_failed(root: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    import dagster as dg

    output(capsys, "schedule", "smoke", "--cron", "* * * * *", *SETTINGS)
    instance = dg.DagsterInstance.ephemeral()
    for tag, status in (("smoke", dg.DagsterRunStatus.FAILURE), ("other", dg.DagsterRunStatus.SUCCESS)):
        run = instance.add_run(dg.DagsterRun(job_name="scheduled_sweep", tags={due.TAG: tag}, status=status))
        if tag == "smoke":
            instance.report_run_failed(run, "quantize was not made with these settings")
    monkeypatch.setenv("DAGSTER_HOME", root)
    monkeypatch.setattr(history, "instance", lambda config: contextlib.nullcontext(instance))
    said = output(capsys, "list", *SETTINGS)
    assert "failure 20" in said
    assert "smoke: quantize was not made with these settings" in said
