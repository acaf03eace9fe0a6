"""Rates, shares and memory of a training, on a clock that the test winds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from vim_core.training.flops import PeakRates
from vim_core.training.throughput import ThroughputMeter, peak_memory


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def meter(clock: Clock, flops: float = 0.0, peaks: PeakRates | None = None) -> ThroughputMeter:
    made = ThroughputMeter(flops, peaks or PeakRates(), clock)
    made.begin()
    return made


def run(watched: ThroughputMeter, clock: Clock, steps: int, wait: float, work: float, skipped: float = 0.0) -> None:
    def arriving() -> Iterator[int]:
        for number in range(steps):
            clock.passes(wait)
            yield number

    for _ in watched.time_batches(arriving()):
        clock.passes(work)
        watched.add(8, {"skipped": torch.tensor(skipped)})


def test_rates_and_the_share_of_waiting(clock: Clock) -> None:
    watched = meter(clock, 6e9, PeakRates(published=12e9, measured=4e9))
    run(watched, clock, 5, wait=0.5, work=1.5)
    row = watched.row({"loss": torch.tensor(2.0)})
    expected = {"loss": 2.0, "skipped": 0.0, "images_per_s": 4.0, "system/step_seconds": 2.0}
    expected |= {"system/data_wait_share": 0.25, "system/flops_per_s": 3e9, "system/mfu": 0.25}
    assert row == pytest.approx(expected | {"system/share_of_measured": 0.75})


def test_each_line_is_an_interval_and_the_total_sums_them(clock: Clock) -> None:
    watched = meter(clock)
    run(watched, clock, 2, wait=1.0, work=1.0, skipped=1.0)
    assert watched.row({})["skipped"] == 2
    run(watched, clock, 4, wait=0.0, work=0.5)
    row = watched.row({})
    assert (row["skipped"], row["images_per_s"]) == (0, 16)
    assert "system/flops_per_s" not in row, "nothing was counted"
    total = watched.total
    assert (total.steps, total.samples, total.seconds, total.waited) == (6, 48, 6.0, 2.0)
    assert watched.speed(total)["images_per_s"] == 8


def test_a_pause_costs_no_rate_and_loses_no_skipped_update(clock: Clock) -> None:
    watched = meter(clock)
    run(watched, clock, 2, wait=0.0, work=1.0, skipped=1.0)
    with watched.paused():
        clock.passes(1000.0)
    run(watched, clock, 2, wait=0.0, work=1.0)
    row = watched.row({})
    assert (row["images_per_s"], row["skipped"]) == (8.0, 2.0)


def test_a_step_reads_nothing_back(clock: Clock) -> None:
    """A tensor without data stands for one that is still being computed."""
    watched = meter(clock)
    watched.add(8, {"skipped": torch.empty((), device="meta")})
    watched.add(8, {"skipped": torch.empty((), device="meta")})


def test_peak_memory_only_grows_and_sees_what_was_held() -> None:
    before = peak_memory(torch.device("cpu"))
    held = torch.ones(64 * 2**20 // 4)
    after = peak_memory(torch.device("cpu"))
    assert before.keys() == {"system/peak_host_memory_gib"}
    assert after["system/peak_host_memory_gib"] >= max(64 / 1024, before["system/peak_host_memory_gib"])
    del held
    assert peak_memory(torch.device("cpu"))["system/peak_host_memory_gib"] >= after["system/peak_host_memory_gib"]
