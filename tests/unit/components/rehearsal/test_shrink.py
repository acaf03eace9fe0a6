"""A rehearsal's settings: sizes are smaller, everything else is the preset's."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from components.contract import settings
from components.rehearsal.shrink import is_size, shrink
from pipelines import presets
from vim_core.config import PipelineConfig
from vim_core.rehearsal.schedule import PERIOD, Schedule
from vim_core.tasks.quantizer import check_accumulation
from vim_core.text import flatten

PRESETS = settings.presets(presets.FOLDER)


def both(preset: str, *overrides: str) -> tuple[PipelineConfig, PipelineConfig]:
    whole = presets.load(preset, list(overrides))
    return whole, shrink(whole, 8)


@pytest.mark.parametrize("preset", PRESETS)
def test_only_sizes_change_and_none_grows(preset: str) -> None:
    whole, small = (flatten(dataclasses.asdict(config)) for config in both(preset))
    changed = {key: (whole[key], small[key]) for key in whole if whole[key] != small[key]}
    assert [key for key in changed if not is_size(key)] == []
    grown = {
        key: pair for key, pair in changed.items() if pair[1] > pair[0] and key not in ("ingest.limit", "ingest.shards")
    }
    assert grown == {}


def test_structure_stays() -> None:
    whole, small = both("imagenet256_large")
    assert small.prior.source == "images"
    assert small.prior.optim.kind == "factored"
    assert small.prior.optim.first_moment == "int8"
    assert small.quantize.loss == whole.quantize.loss
    assert small.quantize.discriminator.kind == "stylegan"
    assert 0 < small.quantize.discriminator.r1_every <= PERIOD
    assert small.quantize.evaluate_every == small.quantize.checkpoint_every == Schedule(8).checkpoint
    assert small.prior.optim.warmup > 0
    assert small.prior.optim.decay_start > small.prior.optim.warmup
    assert small.prior.batch == 4 * small.quantize.batch


@pytest.mark.parametrize(
    ("workers", "accumulate", "device"), [(1, 1, "cpu"), (2, 1, "cpu"), (2, 4, "cpu"), (8, 2, "cuda"), (1, 2, "xla")]
)
def test_the_batch_divides_as_the_whole_one(workers: int, accumulate: int, device: str) -> None:
    overrides = [f"quantize.accumulate={accumulate}", f"run.workers={workers}", f"run.device={device}"]
    _, small = both("imagenet256_base", *overrides)
    check_accumulation(small.quantize, workers)
    assert small.quantize.batch // (workers * accumulate) % small.quantize.discriminator.stddev_group == 0


@pytest.mark.parametrize(
    ("key", "expected"),
    [("prior.steps", True), ("quantize.codebook.dim", False), ("prior.source", False), ("quantize.accumulate", False),
     ("quantize.discriminator.optim.warmup", True), ("ingest.source", True), ("run.data_workers", False)],
)  # fmt: skip
def test_sizes_are_told_from_choices(key: str, expected: Any) -> None:
    assert is_size(key) == expected


def test_the_schedule_measures_whole_periods_and_continues_after_a_checkpoint() -> None:
    schedule = Schedule(6)
    assert (schedule.timed - schedule.warm) % PERIOD == 0
    assert schedule.timed - schedule.warm >= 6
    assert schedule.warm < schedule.timed < schedule.checkpoint < schedule.steps
