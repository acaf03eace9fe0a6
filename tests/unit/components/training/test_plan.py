"""Plans of presets: chips, MFU and rates as a user gives them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import psutil
import pytest

from components.contract import settings
from components.training import plan
from vim_core.config import PipelineConfig, RunConfig
from vim_core.errors import ConfigError

CONF = Path(__file__).resolve().parents[4] / "pipelines" / "conf"


QUICK = ("smoke", "imagenet256_probe", "imagenet256_large_rejection")
"""One small preset, one with a probe, one with a selector; the others are planned by `make test-all`."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in settings.presets(CONF)]
)
def test_every_preset_plans(name: str) -> None:
    config = settings.load(name, ["run.topology=2x2x1"], CONF)
    result = plan.make_plan(config, "0.4", 1.0)
    trained = [name for name in ("classify", "selector", "quantize", "prior", "probe") if name in config.components]
    assert [component.name for component in result.components] == trained
    for component in result.components:
        assert component.memory.peak > 0
        assert component.time is not None
        assert component.time.cost == component.time.chip_hours > 0
    # The presets' data is known, and so are its classes.
    assert not any("unknown" in note for note in result.notes)


def test_vim_large_on_a_cube_of_64() -> None:
    def planned(*overrides: str) -> list[str]:
        return plan.make_plan(settings.load("imagenet256_large", ["run.topology=4x4x4", *overrides], CONF)).warnings

    prior, sample = planned()
    # The paper's batch of 1,024 in fp32 leaves 16 images a chip.
    assert prior.startswith("prior: does not fit")
    assert "prior.recompute=true" in prior
    assert sample.startswith("sample.lanes=64, sample.precision=fp32: need 46")
    for remedy in ("prior.recompute=true", "prior.accumulate=4"):
        assert planned(remedy, "sample.lanes=16") == []


README = (CONF / "README.md").read_text(encoding="utf-8")
LISTED = re.findall(r"^\| `(\w+)` \|.*\| ((?:`[\w-]+`(?:, )?)+) \|$", README, re.MULTILINE)
"""Presets, and the hardware that README says they fit as `name`, `name`."""


def check_pair(preset: str, name: str) -> None:
    """No warning, and the hours of the preset's header; those on h100x8 are also in README's row."""
    result = plan.make_plan(settings.load(preset, [f"run.hardware={name}"], CONF), "0.4")
    assert result.warnings == []
    header = " ".join(re.findall(r"^#(.*)$", (CONF / f"{preset}.yaml").read_text(encoding="utf-8"), re.MULTILINE))
    times = {each.name: each.time for each in result.components}
    hours = " + ".join(f"{time.hours:,.0f}" for key in ("quantize", "prior") if (time := times.get(key)))
    if "Hardware:" in header:
        assert f"{name} {hours}" in " ".join(header.split())
        assert name != "h100x8" or re.search(
            rf"^\| `{preset}` \|.*\| {re.escape(hours)} hours \|", README, re.MULTILINE
        )


@pytest.mark.parametrize("name", ["h100x8", "h200x8", "a100x8", "v4-64"])
def test_the_largest_preset_fits_every_hardware(name: str) -> None:
    check_pair("imagenet256_large", name)


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "names"), LISTED)
def test_every_pair_that_the_readme_lists_fits(preset: str, names: str) -> None:
    for name in re.findall(r"[\w-]+", names):
        check_pair(preset, name)


def test_the_readme_lists_every_preset() -> None:
    assert sorted(preset for preset, _ in LISTED) == settings.presets(CONF)
    assert sum(len(names.split(",")) == 4 for _, names in LISTED) == 13


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
    assert plan.chip_count(run) == chips


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (RunConfig(), "give --topology"),
        (RunConfig(topology="4x4"), "takes three numbers"),
        (RunConfig(topology="3x3x3"), "no such slice"),
        (RunConfig(topology="2x2x4", workers=3), "run.workers=3"),
        (RunConfig(topology="4x4", accelerator="TPU-V5E", workers=2), "run.workers=2"),
        (RunConfig(topology="8", accelerator="H200"), "set run.workers"),
        (RunConfig(accelerator="TPU-V1"), "no such chip"),
    ],
)
def test_impossible_chips_are_refused(run: RunConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan.chip_count(run)


def test_a_cpu_has_this_machines_memory_and_its_workers_share_it() -> None:
    chip = plan.find_chip(RunConfig(device="cpu", workers=4, accelerator="TPU-V4"))
    assert (chip.memory, chip.peak("bf16")) == (psutil.virtual_memory().total / 4, None)
    assert plan.chip_count(RunConfig(device="cpu", workers=4)) == 4
    result = plan.make_plan(settings.load("smoke", ["run.hardware=cpu"], CONF), "0.4")
    assert (result.way, [each.time for each in result.components]) == ("data", [None] * 5)
    assert any("no published rate" in note for note in result.notes)


def small() -> PipelineConfig:
    return settings.load("smoke", ["run.topology=2x2x1"], CONF)


def test_a_measured_share_is_the_priors_and_says_so(tmp_path: Path) -> None:
    record = tmp_path / "stage2_mfu-gpu.json"
    rows = [{"name": f"MFU of the VIM-{size} step", "ratio": ratio} for size, ratio in (("Base", 0.3), ("Large", 0.35))]
    record.write_text(json.dumps(rows), encoding="utf-8")
    result = plan.make_plan(small(), str(record))
    assert result.mfu_from == f"measured: {record}"
    assert {component.name: component.mfu for component in result.components if component.mfu} == {"prior": 0.35}


def test_a_record_without_figures_is_refused(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    record.write_text(json.dumps([{"name": "MFU of the VIM-Base step", "ratio": "not measured"}]), encoding="utf-8")
    with pytest.raises(ConfigError, match="was measured; give a number"):
        plan.make_plan(small(), str(record))
    with pytest.raises(ConfigError, match="neither a number nor"):
        plan.make_plan(small(), str(tmp_path / "missing.json"))


def test_numbers_out_of_range_are_refused() -> None:
    config = small()
    with pytest.raises(ConfigError, match=r"--mfu=1\.5"):
        plan.make_plan(config, "1.5")
    with pytest.raises(ConfigError, match="--mfu=nan"):
        plan.make_plan(config, "nan")
    with pytest.raises(ConfigError, match="--price"):
        plan.make_plan(config, price=-1.0)
    with pytest.raises(ConfigError, match="--images=0"):
        plan.make_plan(config, images=0)
    for rate, words in (("sample", "write component=images"), ("prior=3", "rates are of"), ("sample=0", "positive")):
        with pytest.raises(ConfigError, match=words):
            plan.make_plan(config, rates=[rate])


def test_rates_give_hours() -> None:
    config = small()
    config.sample.count = 7200
    assert plan.make_plan(config, rates=["sample=2"]).hours["sample"] == 1.0
