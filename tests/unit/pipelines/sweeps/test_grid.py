"""Points of a grid, and the cells of points that share their images."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import presets
from pipelines.sweeps import grid
from pipelines.sweeps.spec import Sweep
from vim_core.errors import ConfigError, DataError

VALUES = {
    "sample.guidance": st.sampled_from([1.0, 1.5, 2.0]),
    "sample.seed": st.integers(0, 4),
    "acceptance": st.sampled_from([1.0, 0.5, 0.25]),
    "sample.top_k": st.integers(0, 3),
}
GRIDS = st.fixed_dictionaries(
    {}, optional={key: st.lists(values, min_size=1, max_size=3, unique=True) for key, values in VALUES.items()}
).filter(bool)
SMOKE = presets.load("smoke", [])


@settings(max_examples=25, deadline=None)
@given(GRIDS)
def test_a_grid_is_every_combination_once(given: dict[str, list[Any]]) -> None:
    points = grid.expand(Sweep("s", grid=given))
    assert len(points) == math.prod(map(len, given.values()))
    assert len({point.key for point in points}) == len(points)
    assert [point.number for point in points] == list(range(1, len(points) + 1))
    for key, values in given.items():
        assert {point.settings[key] for point in points} == set(values)
    # The last setting varies fastest.
    last = list(given)[-1]
    assert [point.settings[last] for point in points[: len(given[last])]] == given[last]


@settings(max_examples=25, deadline=None)
@given(GRIDS, GRIDS)
def test_further_points_come_after_the_grid_and_none_twice(
    one: dict[str, list[Any]], two: dict[str, list[Any]]
) -> None:
    extra = [dict(point.varying) for point in grid.expand(Sweep("s", grid=two))]
    both = grid.expand(Sweep("s", grid=one, points=extra))
    alone = grid.expand(Sweep("s", grid=one))
    assert both[: len(alone)] == alone
    assert {point.key for point in both} == {p.key for p in alone} | {p.key for p in grid.expand(Sweep("s", grid=two))}


@settings(max_examples=25, deadline=None)
@given(GRIDS)
def test_cells_share_all_but_acceptance_and_have_enough_candidates(given: dict[str, list[Any]]) -> None:
    sweep = Sweep("s", grid=given)
    points = grid.expand(sweep)
    config = SMOKE
    cells = grid.cells(sweep, points, config, 10, {})
    assert sorted(point.number for cell in cells for point in cell.points) == [point.number for point in points]
    assert len(cells) == len(points) // len(given.get("acceptance", [1]))
    for cell in cells:
        assert ("select" in cell.names) == ("acceptance" in given)
        if "acceptance" in given:
            strictest = min(given["acceptance"])
            assert cell.config.sample.count >= math.ceil(config.select.count / strictest) * 10
            assert cell.config.select.rates == sorted(given["acceptance"], reverse=True)
        for point in cell.points:
            assert cell.config.sample.guidance == point.settings.get("sample.guidance", config.sample.guidance)
            assert cell.config.sample.seed == point.settings.get("sample.seed", config.sample.seed)


def test_a_point_with_and_one_without_acceptance_have_candidates_of_their_own() -> None:
    sweep = Sweep("s", points=[{"sample.seed": 1}, {"sample.seed": 1, "acceptance": 0.1}])
    first, second = grid.cells(sweep, grid.expand(sweep), SMOKE, 10, {})
    assert (first.names, first.config.sample.count) == (("sample", "score"), 60)
    assert (second.names, second.config.sample.count) == (("sample", "select", "score"), 300)


def test_blocks_of_the_probe_share_one_probe() -> None:
    sweep = Sweep("s", grid={"block": [0, 1]}, axes=["max probe.accuracy", "min block"])
    (cell,) = grid.cells(sweep, grid.expand(sweep), SMOKE, 10, {})
    assert cell.names == ("probe",)
    assert len(cell.points) == 2


def test_latest_and_all_are_the_checkpoints_there_are() -> None:
    steps = [100, 300, 200]
    assert [p.settings for p in grid.expand(Sweep("s", grid={"checkpoint": ["latest"]}), steps)] == [
        {"checkpoint": 300}
    ]
    found = grid.expand(Sweep("s", grid={"checkpoint": ["all"]}), steps)
    assert [point.settings["checkpoint"] for point in found] == [100, 200, 300]
    fixed = grid.expand(Sweep("s", settings={"checkpoint": "latest"}, grid={"sample.seed": [1]}), steps)
    assert fixed[0].settings == {"checkpoint": 300, "sample.seed": 1}
    named = grid.expand(Sweep("s", grid={"checkpoint": ["latest", 300]}), steps)
    assert len(named) == 1


def test_no_checkpoint_is_said() -> None:
    with pytest.raises(DataError, match="no checkpoint yet"):
        grid.expand(Sweep("s", grid={"checkpoint": ["all"]}))


def test_a_component_that_the_preset_lacks_is_named() -> None:
    sweep = Sweep("s", grid={"acceptance": [0.5]})
    config = presets.load(
        "smoke", ["components=[ingest,classify,statistics,quantize,tokenize,reconstruct,prior,sample,score]"]
    )
    with pytest.raises(ConfigError, match="needs select, which is not in the preset smoke"):
        grid.cells(sweep, grid.expand(sweep), config, 10, {})
