"""Chips, MFU and rates as a user gives them; every preset plans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.contract import settings
from components.training import plan
from vim_core.config import PipelineConfig, RunConfig
from vim_core.errors import ConfigError

CONF = Path(__file__).resolve().parents[4] / "pipelines" / "conf"


@pytest.mark.parametrize("name", settings.presets(CONF))
def test_every_preset_plans(name: str) -> None:
    config = settings.load(name, ["run.topology=2x2x1"], CONF)
    made = plan.make(config, "0.4", 1.0)
    assert [each.name for each in made.components] == [
        each for each in ("classify", "selector", "quantize", "prior", "probe") if each in config.components
    ]
    for each in made.components:
        assert each.memory.peak > 0
        assert each.time is not None
        assert each.time.cost == each.time.chip_hours > 0
    # The presets' data is known, and so are its classes.
    assert not any("unknown" in note for note in made.notes)


def test_vim_large_on_a_cube_of_64() -> None:
    asked = ["run.topology=4x4x4"]
    made = plan.make(settings.load("imagenet256_large", asked, CONF))
    assert made.chips == 64
    (warning,) = made.warnings
    # The paper's batch of 1,024 in fp32 leaves 16 images a chip.
    assert warning.startswith("prior: does not fit")
    assert "prior.recompute=true" in warning
    assert plan.make(settings.load("imagenet256_large", [*asked, "prior.recompute=true"], CONF)).warnings == []
    assert plan.make(settings.load("imagenet256_large", [*asked, "prior.accumulate=4"], CONF)).warnings == []


@pytest.mark.parametrize(
    ("run", "chips"),
    [
        (RunConfig(topology="4x4x4"), 64),
        (RunConfig(topology="2x2x4", workers=8), 32),
        (RunConfig(topology="4x4", accelerator="TPU-V5E"), 16),
        (RunConfig(accelerator="H100", workers=3), 3),
    ],
)
def test_chips(run: RunConfig, chips: int) -> None:
    assert plan.count(run) == chips


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (RunConfig(), "give --topology"),
        (RunConfig(topology="4x4"), "not three numbers"),
        (RunConfig(topology="3x3x3"), "no such slice"),
        (RunConfig(topology="2x2x4", workers=3), "run.workers=3"),
        (RunConfig(topology="4x4", accelerator="TPU-V5E", workers=2), "run.workers=2"),
        (RunConfig(topology="8", accelerator="H200"), "set run.workers"),
        (RunConfig(accelerator="TPU-V1"), "no such chip"),
    ],
)
def test_no_such_chips(run: RunConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan.count(run)


def small() -> PipelineConfig:
    return settings.load("smoke", ["run.topology=2x2x1"], CONF)


def test_a_measured_share_is_the_priors_and_says_so(tmp_path: Path) -> None:
    record = tmp_path / "stage2_mfu-gpu.json"
    rows = [{"name": f"MFU of the VIM-{size} step", "ratio": ratio} for size, ratio in (("Base", 0.3), ("Large", 0.35))]
    record.write_text(json.dumps(rows), encoding="utf-8")
    made = plan.make(small(), str(record))
    assert made.mfu_from == f"measured: {record}"
    assert {each.name: each.mfu for each in made.components if each.mfu} == {"prior": 0.35}


def test_a_record_without_figures_is_refused(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    record.write_text(json.dumps([{"name": "MFU of the VIM-Base step", "ratio": "not measured"}]), encoding="utf-8")
    with pytest.raises(ConfigError, match="was measured; give a number"):
        plan.make(small(), str(record))
    with pytest.raises(ConfigError, match="neither a number nor"):
        plan.make(small(), str(tmp_path / "missing.json"))


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"--mfu=1\.5"):
        plan.make(small(), "1.5")
    with pytest.raises(ConfigError, match="--mfu=nan"):
        plan.make(small(), "nan")
    with pytest.raises(ConfigError, match="--price"):
        plan.make(small(), price=-1.0)
    with pytest.raises(ConfigError, match="--images=0"):
        plan.make(small(), images=0)
    for rate, words in (("sample", "write component=images"), ("prior=3", "rates are of"), ("sample=0", "positive")):
        with pytest.raises(ConfigError, match=words):
            plan.make(small(), rates=[rate])


def test_rates_give_hours() -> None:
    config = small()
    config.sample.count = 7200
    assert plan.make(config, rates=["sample=2"]).hours["sample"] == 1.0
