"""Which samples belong to which step: laws of the order (contract 4)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vim_core.data.lane_schedule import lanes_of
from vim_core.data.sample_order import SampleOrder, keyed_rng
from vim_core.errors import ConfigError, DataError

GROUPS = st.lists(st.integers(0, 7), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) > 0)
BATCHES = st.sampled_from([1, 3, 4, 12, 16])


def rows_of(order: SampleOrder, batch: int, steps: int) -> np.ndarray:
    return np.concatenate([order.batch(step, batch)[1] for step in range(steps)])


def test_keyed_noise_is_a_function_of_its_whole_key() -> None:
    first = keyed_rng("a", 1, 2).random(4)
    assert np.array_equal(first, keyed_rng("a", 1, 2).random(4))
    for other in (("a", 12), ("a", 1, 3), ("b", 1, 2), ("a", "1", 2), ("a", 1)):
        assert not np.array_equal(first, keyed_rng(*other).random(4))


def test_keyed_noise_stays_the_same_over_versions() -> None:
    # Recorded: numpy keeps Philox streams, and every resumed training relies on it.
    assert keyed_rng("order", 0, 0).integers(0, 1000, 4).tolist() == [968, 56, 450, 898]


def test_small_tables_keep_the_order_of_earlier_versions() -> None:
    assert SampleOrder([3, 2, 4], 5, 8).batch(1, 4)[1].tolist() == [2, 5, 3, 8]
    assert SampleOrder([9], 5).batch(0, 9)[1].tolist() == [2, 8, 4, 5, 6, 0, 7, 3, 1]


@settings(max_examples=40)
@given(GROUPS, st.integers(0, 3), st.integers(0, 4), BATCHES, st.integers(1, 2))
def test_every_epoch_has_every_row_once_and_epochs_hardly_overlap(
    sizes: list[int], seed: int, interleave: int, batch: int, epochs: int
) -> None:
    order, total = SampleOrder(sizes, seed, interleave), sum(sizes)
    # The last lanes of an epoch walk one window more.
    lag = order.lanes(batch) * max(sizes) * max(1, interleave)
    steps = -(-(epochs * total + lag) // batch)
    parts = [order.batch(step, batch) for step in range(steps)]
    positions, rows = (np.concatenate(each) for each in zip(*parts, strict=True))
    assert len(set(positions.tolist())) == len(positions)
    for epoch in range(epochs):
        used = np.flatnonzero(positions // total == epoch)
        assert sorted(rows[used].tolist()) == list(range(total))
        assert used.max() < (epoch + 1) * total + lag
        assert used.min() >= epoch * total - lag


@given(GROUPS, st.integers(0, 12), BATCHES, st.integers(0, 4))
def test_a_batch_is_a_function_of_its_step(sizes: list[int], step: int, batch: int, interleave: int) -> None:
    used = SampleOrder(sizes, 7, interleave)
    for other in (30, step + 1, 0):
        used.batch(other, batch)
    for found, expected in zip(
        used.batch(step, batch), SampleOrder(sizes, 7, interleave).batch(step, batch), strict=True
    ):
        assert np.array_equal(found, expected)


@given(GROUPS, st.integers(0, 9), st.sampled_from([(12, 3), (12, 4), (16, 8), (16, 16), (9, 3)]))
def test_ranks_slice_one_global_batch(sizes: list[int], step: int, share: tuple[int, int]) -> None:
    order, (batch, world) = SampleOrder(sizes, 1, 2), share
    parts = [order.batch(step, batch, rank, world) for rank in range(world)]
    for whole, part in zip(order.batch(step, batch), zip(*parts, strict=True), strict=True):
        assert np.array_equal(np.concatenate(part), whole)


@settings(max_examples=30)
@given(st.integers(9, 40), st.integers(1, 9), st.sampled_from([1, 2, 6, 16, 64]))
def test_a_lane_has_few_row_groups_at_once_and_a_batch_several(groups: int, rows: int, batch: int) -> None:
    order = SampleOrder([rows] * groups, 3, 8)
    lanes, steps = order.lanes(batch), 12 * rows
    assert lanes == lanes_of(groups, batch)
    drawn = rows_of(order, batch, steps).reshape(steps, lanes, -1).transpose(1, 0, 2).reshape(lanes, -1) // rows
    width = max(1, 8 // lanes)
    for lane in drawn:
        for first in range(0, len(lane) - width * rows, width * rows):
            # A cut window comes before; so a stretch may touch two windows.
            assert len(set(lane[first : first + width * rows].tolist())) <= 2 * width


def test_lanes_begin_windows_at_different_steps() -> None:
    order = SampleOrder([256] * 48, 0, 8)
    begun = [order.window(lane, 300, 8).start for lane in range(8)]
    assert len(set(begun)) == 8


@pytest.mark.parametrize(
    ("groups", "batch", "lanes"), [(5005, 256, 64), (5005, 96, 32), (40, 256, 32), (5005, 27, 1), (64, 1024, 64)]
)
def test_lanes_depend_on_table_and_batch_alone(groups: int, batch: int, lanes: int) -> None:
    assert lanes_of(groups, batch) == lanes


def test_epochs_and_seeds_differ_and_rows_are_mixed() -> None:
    order = SampleOrder([50, 50], 0, 0)
    first, second = order.batch(0, 100)[1], order.batch(1, 100)[1]
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, SampleOrder([50, 50], 1, 0).batch(0, 100)[1])
    assert 10 < int((first[:50] < 50).sum()) < 40  # both groups in either half


def test_refusals() -> None:
    with pytest.raises(DataError, match="no rows to train on"):
        SampleOrder([0, 0], 0)
    with pytest.raises(ConfigError, match=r"batch=10: not divisible by run\.workers=4"):
        SampleOrder([20], 0).batch(0, 10, 0, 4)
