"""Points of a sweep, and the jobs of points that share their images."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.contract import code
from pipelines import presets
from pipelines.sweeps import jobs, spec
from pipelines.sweeps.jobs import EvaluationJob
from pipelines.sweeps.spec import Sweep
from vim_core.config import PipelineConfig
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


def build(sweep: Sweep, config: PipelineConfig = SMOKE) -> list[EvaluationJob]:
    return jobs.build(sweep, spec.expand(sweep), config, 10, {}, {})


@settings(max_examples=25, deadline=None)
@given(GRIDS)
def test_a_grid_is_every_combination_once(given: dict[str, list[Any]]) -> None:
    points = spec.expand(Sweep("s", grid=given))
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
    further = spec.expand(Sweep("s", grid=two))
    both = spec.expand(Sweep("s", grid=one, points=[dict(point.varying) for point in further]))
    alone = spec.expand(Sweep("s", grid=one))
    assert both[: len(alone)] == alone
    assert {point.key for point in both} == {point.key for point in (*alone, *further)}


@settings(max_examples=25, deadline=None)
@given(GRIDS)
def test_jobs_share_all_but_acceptance_and_have_enough_candidates(given: dict[str, list[Any]]) -> None:
    sweep = Sweep("s", grid=given)
    points, planned = spec.expand(sweep), build(sweep)
    assert sorted(point.number for job in planned for point in job.points) == [point.number for point in points]
    assert len(planned) == len(points) // len(given.get("acceptance", [1]))
    for job in planned:
        assert ("select" in job.components) == ("acceptance" in given)
        if "acceptance" in given:
            strictest = min(given["acceptance"])
            assert job.config.sample.count >= math.ceil(SMOKE.select.count / strictest) * 10
            assert job.config.select.rates == sorted(given["acceptance"], reverse=True)
        for point in job.points:
            assert job.config.sample.guidance == point.settings.get("sample.guidance", SMOKE.sample.guidance)
            assert job.config.sample.seed == point.settings.get("sample.seed", SMOKE.sample.seed)


def test_a_point_with_and_one_without_acceptance_have_candidates_of_their_own() -> None:
    first, second = build(Sweep("s", points=[{"sample.seed": 1}, {"sample.seed": 1, "acceptance": 0.1}]))
    assert (first.components, first.config.sample.count) == (("sample", "score"), 60)
    assert (second.components, second.config.sample.count) == (("sample", "select", "score"), 300)


def test_blocks_of_the_probe_share_one_probe() -> None:
    (job,) = build(Sweep("s", grid={"block": [0, 1]}, axes=["max probe.accuracy", "min block"]))
    assert job.components == ("probe",)
    assert len(job.points) == 2


def test_latest_and_all_are_the_checkpoints_there_are() -> None:
    steps = [100, 300, 200]
    (latest,) = spec.expand(Sweep("s", grid={"checkpoint": ["latest", 300]}), steps)
    assert latest.settings == {"checkpoint": 300}
    found = spec.expand(Sweep("s", grid={"checkpoint": ["all"]}), steps)
    assert [point.settings["checkpoint"] for point in found] == [100, 200, 300]
    fixed = spec.expand(Sweep("s", settings={"checkpoint": "latest"}, grid={"sample.seed": [1]}), steps)
    assert fixed[0].settings == {"checkpoint": 300, "sample.seed": 1}
    with pytest.raises(DataError, match="no checkpoint yet"):
        spec.expand(Sweep("s", grid={"checkpoint": ["all"]}))


def test_a_component_that_the_preset_lacks_is_named() -> None:
    config = presets.load(
        "smoke", ["components=[ingest,classify,statistics,quantize,tokenize,reconstruct,prior,sample,score]"]
    )
    with pytest.raises(ConfigError, match="needs select, which is not in the preset smoke"):
        build(Sweep("s", grid={"acceptance": [0.5]}), config)


def test_a_process_of_another_code_fails_its_job() -> None:
    (job,) = build(Sweep("s", grid={"sample.seed": [1]}))
    result = jobs._evaluate_here(job, code.Code("/opt/vim", "0.0.1", "0123456789ab"))
    assert not result.artifacts
    assert "another code" in result.reason
    assert "/opt/vim" in result.reason
