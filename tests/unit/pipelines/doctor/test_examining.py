"""Checks are independent: one that fails or hangs costs only its own line."""

from __future__ import annotations

import json
import threading

import pytest

from pipelines.cli import doctor
from pipelines.cli import main as cli
from pipelines.doctor.examining import examine
from pipelines.doctor.findings import FAIL, OK, Check, Finding, Subject, ok, warn
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError


def test_a_check_that_fails_or_hangs_takes_no_other_along() -> None:
    def crashing(subject: Subject) -> list[Finding]:
        raise RuntimeError("an error of its own")

    def refusing(subject: Subject) -> list[Finding]:
        raise ConfigError("run.root='': no")

    def hanging(subject: Subject) -> list[Finding]:
        threading.Event().wait()
        return []

    def fine(subject: Subject) -> list[Finding]:
        return [ok("fine", "yes")]

    checks = [
        Check("crashing", crashing), Check("hanging", hanging, seconds=0.05), Check("refusing", refusing),
        Check("unneeded", crashing, needs=lambda subject: False), Check("fine", fine),
    ]  # fmt: skip
    found = examine(Subject(PipelineConfig()), checks)
    assert [(each.check, each.status) for each in found] == [
        ("crashing", FAIL), ("hanging", FAIL), ("refusing", FAIL), ("fine", OK),
    ]  # fmt: skip
    assert "RuntimeError: an error of its own" in found[0].found
    assert "no answer within" in found[1].found
    assert found[2].found == "run.root='': no"


def told(monkeypatch: pytest.MonkeyPatch, findings: list[Finding]) -> None:
    monkeypatch.setattr(doctor, "checks", lambda: [Check("all", lambda subject: findings)])


def test_the_command_fails_where_a_check_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told(monkeypatch, [ok("python", "3.11"), warn("memory", "little", "close programs")])
    assert cli.main(["doctor", "--preset", "smoke"]) == 0
    assert "smoke: 2 looked at, 0 failed, 1 doubtful" in capsys.readouterr().out
    told(monkeypatch, [Finding(FAIL, "root", "gs://b: denied [create]", "grant the role")])
    assert cli.main(["doctor", "--preset", "smoke"]) == 1
    out = capsys.readouterr().out
    assert "root: gs://b: denied [create]" in out
    assert "→ grant the role" in out


def test_findings_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told(monkeypatch, [ok("python", "3.11")])
    assert cli.main(["doctor", "--preset", "smoke", "--json", "prior.steps=10"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"status": "ok", "check": "python", "found": "3.11", "advice": ""}]


def test_wrong_words_are_errors_of_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--preset", "smoke", "--cluster", "gke-v5"]) == cli.CONFIG_ERROR
    assert "did you mean gke-v4?" in capsys.readouterr().err
    assert cli.main(["doctor", "--preset", "smoke", "prior.step=1"]) == cli.CONFIG_ERROR
