"""Hardware files lie between preset and command line, and never change what is learnt."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from components.contract import explain, hardware, settings
from pipelines import presets
from pipelines.cli import main as cli
from tests.support.common import CONF
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError
from vim_core.text import flatten

NAMES = hardware.names(CONF)


def load(preset: str, *overrides: str) -> PipelineConfig:
    return settings.load(preset, overrides, CONF)


def leaves(config: PipelineConfig) -> dict[str, object]:
    return flatten(dataclasses.asdict(config))


def test_the_files_that_ship() -> None:
    assert NAMES == ["a100x8", "cpu", "h100x8", "h200x8", "v4-64"]


def test_no_setting_of_hardware_is_a_rate_a_batch_or_a_length() -> None:
    last = {key.rpartition(".")[2] for key in hardware.ALLOWED if not key.startswith("run.")}
    assert last == {"recompute", "accumulate", "precision", "compile", "lanes"}
    where = {key for key in hardware.ALLOWED if key.startswith("run.")}
    assert where.isdisjoint({"run.root", "run.tracking_uri", "run.hardware", "run.changed", "run.ray_address"})


@pytest.mark.parametrize("name", NAMES)
def test_a_file_changes_nothing_else(name: str) -> None:
    plain, changed = (leaves(load("imagenet256_large", *more)) for more in ((), (f"run.hardware={name}",)))
    differing = {key for key, value in plain.items() if changed[key] != value}
    assert differing - {"run.hardware", "run.changed"} <= hardware.ALLOWED
    assert {"run.hardware", "run.device"} <= differing
    assert (changed["prior.batch"], changed["quantize.batch"], changed["prior.optim.lr"]) == (1024, 256, 4.5e-4)


def test_the_order_is_preset_hardware_command_line(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "extends: smoke\nrun: {hardware: h100x8, data_workers: 3}\nprior: {accumulate: 2}\n"
    )
    mine = settings.load(str(tmp_path / "mine.yaml"), ["prior.precision=fp32"], CONF)
    assert (mine.run.device, mine.run.data_workers, mine.run.hardware) == ("cuda", 4, "h100x8")
    assert (mine.prior.accumulate, mine.prior.precision) == (16, "fp32")
    assert settings.load(str(tmp_path / "mine.yaml"), ["run.hardware="], CONF).prior.accumulate == 2
    assert settings.from_yaml(settings.to_yaml(mine), "text") == mine


def test_changed_results_are_told_and_where_work_runs_is_not() -> None:
    assert load("smoke", "run.hardware=cpu").run.changed == []
    assert load("smoke", "prior.accumulate=4", "run.hardware=h100x8").run.changed == [
        "run.hardware=h100x8",
        "prior.accumulate=4",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prior: {batch: 8}", r"^prior\.batch=8 \(.*own\.yaml\): no setting of hardware"),
        ("prior: {optim: {lr: 1.0}}", r"^prior\.optim\.lr=1\.0"),
        ("run: {root: elsewhere}", r"^run\.root='elsewhere'"),
        ("run: {workes: 2}", r"^run\.workes=2"),
        ("prior: {precision: fast}", r"^prior\.precision='fast'"),
    ],
)
def test_what_a_file_may_not_say(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load("smoke", f"run.hardware={tmp_path / 'own.yaml'}")


def test_an_unknown_name_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.hardware='h100x9': unknown hardware; there are a100x8, cpu, h100x8"):
        load("smoke", "run.hardware=h100x9")
    with pytest.raises(ConfigError, match="no such file"):
        load("smoke", f"run.hardware={tmp_path}/nothing.yaml")


def test_config_shows_where_a_value_is_from(capsys: pytest.CaptureFixture[str]) -> None:
    origins = presets.origins("smoke", ["run.hardware=h100x8", "prior.steps=3"])
    lines = [
        *explain.explain("prior.accumulate", load("smoke"), {}, origins),
        *explain.explain("prior", load("smoke"), {}, origins),
    ]
    assert "set in      hardware/h100x8.yaml" in lines
    assert "  prior.steps = 60   (default 1000, from command line)" in lines
    assert "set in      no file: the default" in list(explain.explain("prior.seed", load("smoke"), {}, origins))
    assert cli.main(["config", "--preset", "smoke", "run.hardware=h100x8", "--diff"]) == 0
    printed = capsys.readouterr().out
    assert "  accumulate: 16  # default 1, from hardware/h100x8.yaml\n" in printed
    assert "  steps: 60  # default 1000\n" in printed
