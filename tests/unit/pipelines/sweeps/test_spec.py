"""Sweep files: what ships with the package loads, and a mistake names its key and what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import presets
from pipelines.sweeps import jobs, spec
from vim_core.errors import ConfigError

GRID = "grid: {sample.guidance: [1.0, 2.0]}\n"


@pytest.mark.parametrize("name", spec.names())
def test_every_sweep_of_the_package_loads_and_suits_its_preset(name: str) -> None:
    sweep = spec.load(name)
    points = spec.expand(sweep)
    config = presets.load(sweep.preset, [])
    guided = any(value != 1.0 for value in sweep.grid.get("sample.guidance", []))
    assert not guided or config.prior.label_dropout > 0  # the null class is trained
    planned = jobs.build(sweep, points, config, 10, {}, {})
    assert sweep.name == name
    assert sum(len(job.points) for job in planned) == len(points)
    assert (len(planned) < len(points)) == ("acceptance" in sweep.grid)  # points share their candidates


def test_a_sweep_survives_its_yaml() -> None:
    sweep = spec.load("digits")
    assert spec.parse(spec.to_yaml(sweep)) == sweep


def test_a_file_is_named_after_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GRID)
    assert spec.load(str(path)).name == "mine"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("grid: {sample.guidence: [1.0]}", "did you mean sample.guidance"),
        ("grid: {sample.guidance: 1.0}", "expected list"),
        ("grid: {sample.guidance: [1.0, 1.0]}", "names a value twice"),
        ("gird: {sample.guidance: [1.0]}", "did you mean grid"),
        ("name: ../../elsewhere\n" + GRID, "it names a folder"),
        ("name: schedules\n" + GRID, "is taken"),
        ("parallel: 0\n" + GRID, "must be positive"),
        ("axes: [fid]\n" + GRID, "name two"),
        ("axes: [max accuracy, fid]\n" + GRID, "<max|min> <figure>"),
        ("settings: {sample.guidance: 2.0}\n" + GRID, "is 2.0 for all points"),
        ("grid: {prior.steps: [1, 2]}", "would train prior again"),
        ("grid: {tokenize.views: [1, 2]}", "which all points share"),
        ("grid: {run.threads: [1]}", "says where work runs"),
        ("grid: {select.rates: [0.5]}", "write the rates as acceptance"),
        ("grid: {acceptance: [0.0]}", "in (0, 1]"),
        ("grid: {acceptence: [0.5]}", "did you mean acceptance"),
        ("grid: {checkpoint: [newest]}", "latest"),
        ("grid: {checkpoint: [all, 100]}", "every other one"),
        ("settings: {checkpoint: all}\n" + GRID, "is a step of the prior's training"),
        ("grid: {block: [-1]}", "number of a block"),
        ("points: [sample.guidance]", "points[0]='sample.guidance': expected dict"),
        ("points: [{}]", "names no setting"),
        ("about: nothing", "name a setting"),
        ("grid: [1", "not valid YAML"),
    ],
)
def test_a_mistake_is_named(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=r".") as error:
        spec.parse(text, "mine")
    assert told in str(error.value)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean digits"):
        spec.load("digit")


def test_a_value_of_the_wrong_type_is_found_before_anything_runs() -> None:
    sweep = spec.parse("grid: {sample.guidance: [strong]}")
    with pytest.raises(ConfigError, match=r"sample\.guidance='strong'"):
        jobs.build(sweep, spec.expand(sweep), presets.load("smoke", []), 10, {}, {})


@pytest.mark.parametrize(
    ("text", "components"),
    [
        (GRID, ["sample", "score"]),
        ("grid: {acceptance: [1.0]}", ["sample", "select", "score"]),
        ("grid: {block: [0, 1]}\naxes: [max probe.accuracy, min block]", ["probe"]),
        ("grid: {checkpoint: [1]}\naxes: [max probe.top1, max conditional_accuracy]", ["sample", "score", "probe"]),
        ("grid: {sample.seed: [1], probe.seed: [1]}", ["sample", "score", "probe"]),
    ],
)
def test_a_point_runs_what_its_settings_and_figures_take(text: str, components: list[str]) -> None:
    assert spec.parse(text).components("acceptance" in text) == components
