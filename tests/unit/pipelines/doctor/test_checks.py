"""Checks are independent: one that fails or hangs costs only its own line."""

from __future__ import annotations

import json
import threading

import pytest

from pipelines.cli import doctor
from pipelines.cli import main as cli
from pipelines.doctor.checks import FAIL, OK, Check, Result, Target, ok, run_checks, warn
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError


def test_a_check_that_fails_or_hangs_takes_no_other_along() -> None:
    def crashing(target: Target) -> list[Result]:
        raise RuntimeError("an error of its own")

    def refusing(target: Target) -> list[Result]:
        raise ConfigError("run.root='': no")

    def hanging(target: Target) -> list[Result]:
        threading.Event().wait()
        return []

    def fine(target: Target) -> list[Result]:
        return [ok("fine", "yes")]

    checks = [
        Check("crashing", crashing), Check("hanging", hanging, timeout=0.05), Check("refusing", refusing),
        Check("unneeded", crashing, applies=lambda target: False), Check("fine", fine),
    ]  # fmt: skip
    found = run_checks(Target(PipelineConfig()), checks)
    assert [(each.check, each.status) for each in found] == [
        ("crashing", FAIL), ("hanging", FAIL), ("refusing", FAIL), ("fine", OK),
    ]  # fmt: skip
    assert "RuntimeError: an error of its own" in found[0].found
    assert "no answer within" in found[1].found
    assert found[2].found == "run.root='': no"


def use_results(monkeypatch: pytest.MonkeyPatch, findings: list[Result]) -> None:
    monkeypatch.setattr(doctor, "list_checks", lambda: [Check("all", lambda target: findings)])


def test_the_command_fails_where_a_check_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_results(monkeypatch, [ok("python", "3.11"), warn("memory", "little", "close programs")])
    assert cli.main(["doctor", "--preset", "smoke"]) == 0
    assert "smoke: 2 results, 0 failed, 1 warnings" in capsys.readouterr().out
    use_results(monkeypatch, [Result(FAIL, "root", "gs://b: denied [create]", "grant the role")])
    assert cli.main(["doctor", "--preset", "smoke"]) == 1
    out = capsys.readouterr().out
    assert "root: gs://b: denied [create]" in out
    assert "→ grant the role" in out


def test_findings_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    use_results(monkeypatch, [ok("python", "3.11")])
    assert cli.main(["doctor", "--preset", "smoke", "--json", "prior.steps=10"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"status": "ok", "check": "python", "found": "3.11", "advice": ""}]


def test_wrong_words_are_errors_of_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--preset", "smoke", "--cluster", "gke-v5"]) == cli.CONFIG_ERROR
    assert "did you mean gke-v4?" in capsys.readouterr().err
    assert cli.main(["doctor", "--preset", "smoke", "prior.step=1"]) == cli.CONFIG_ERROR
