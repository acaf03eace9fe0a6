"""`vimctl plan` as people and programs read it."""

from __future__ import annotations

import json

import pytest

from pipelines.cli import main as cli

SMOKE = ["plan", "--preset", "smoke", "--topology", "2x2x1"]


def test_json_has_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*SMOKE, "--mfu", "0.4", "--price", "2", "--json", "prior.batch=30"]) == 0
    plan = json.loads(capsys.readouterr().out)
    mfu = "given: --mfu 0.4, for every training"
    assert (plan["preset"], plan["chips"], plan["mfu_from"]) == ("smoke", 4, mfu)
    prior = next(each for each in plan["components"] if each["name"] == "prior")
    assert prior["time"]["cost"] == 2 * prior["time"]["chip_hours"]
    assert prior["memory"]["peak"] > 0
    assert any("prior.batch=30" in warning for warning in plan["warnings"])


def test_tables_for_people(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(SMOKE) == 0
    text = capsys.readouterr().out
    assert "smoke on 4 x TPU v4, weights split over 4 of 4 chips" in text
    assert "MFU unknown, so no hours: give --mfu" in text
    rows = {" ".join(line.split()[:2]): line.split() for line in text.splitlines()}
    assert rows["training classify"] == ["training", "classify", "selector", "quantize", "prior", "probe"]
    assert rows["images at"][-5:] == ["32", "32", "8", "8", "16"]
    assert rows["chips 1"] == ["chips", "1", "1", "4", "4", "4"]
    assert rows["hours –"] == ["hours", "–", "–", "–", "–", "–"]
    assert "warning: prior.stack: dim=64 not divisible by 128" in text


def test_another_accelerator(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--preset", "smoke", "--accelerator", "H200", "run.workers=2", "run.parallel=fsdp"]) == 0
    assert "smoke on 2 x H200, FSDP2 over 2 of 2 chips" in capsys.readouterr().out
    assert cli.main(["plan", "--preset", "smoke", "--hardware", "h100x8", "prior.accumulate=1"]) == 0
    assert "smoke on 8 x H100 (h100x8), a copy on each chip" in capsys.readouterr().out
    assert cli.main(["plan", "--preset", "smoke", "--hardware", "h100"]) == 2
    assert "there are a100x8, cpu, h100x8" in capsys.readouterr().err


def test_a_malformed_topology_is_a_config_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--preset", "smoke", "--topology", "5x5x5"]) == 2
    assert "run.topology='5x5x5'" in capsys.readouterr().err
