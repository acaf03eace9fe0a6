"""Which samples belong to which step: laws of the order (contract 4)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vim_core.data.sample_order import SampleOrder, keyed_rng
from vim_core.errors import ConfigError, DataError

GROUPS = st.lists(st.integers(0, 7), min_size=1, max_size=8).filter(lambda sizes: sum(sizes) > 0)


def test_keyed_noise_is_a_function_of_its_whole_key() -> None:
    first = keyed_rng("a", 1, 2).random(4)
    assert np.array_equal(first, keyed_rng("a", 1, 2).random(4))
    for other in (("a", 12), ("a", 1, 3), ("b", 1, 2), ("a", "1", 2), ("a", 1)):
        assert not np.array_equal(first, keyed_rng(*other).random(4))


def test_keyed_noise_stays_the_same_over_versions() -> None:
    # Recorded: numpy keeps Philox streams, and every resumed training relies on it.
    assert keyed_rng("order", 0, 0).integers(0, 1000, 4).tolist() == [968, 56, 450, 898]


@given(GROUPS, st.integers(0, 3), st.integers(0, 4), st.integers(0, 3))
def test_every_epoch_is_a_permutation(sizes: list[int], seed: int, interleave: int, epoch: int) -> None:
    order, total = SampleOrder(sizes, seed, interleave), sum(sizes)
    assert sorted(order.ids(epoch * total, total)) == list(range(total))


@given(GROUPS, st.integers(0, 40), st.integers(1, 30), st.integers(0, 4))
def test_ids_are_a_function_of_the_position(sizes: list[int], position: int, count: int, interleave: int) -> None:
    used = SampleOrder(sizes, 7, interleave)
    used.ids(90, 11)
    whole = SampleOrder(sizes, 7, interleave).ids(0, position + count)
    assert np.array_equal(used.ids(position, count), whole[position:])


@given(GROUPS, st.integers(0, 9), st.integers(1, 4), st.integers(1, 4))
def test_ranks_slice_one_global_batch(sizes: list[int], step: int, share: int, world: int) -> None:
    order, batch = SampleOrder(sizes, 1, 2), share * world
    parts = [order.batch(step, batch, rank, world) for rank in range(world)]
    positions, rows = order.batch(step, batch)
    assert np.array_equal(np.concatenate([p for p, _ in parts]), positions)
    assert np.array_equal(np.concatenate([r for _, r in parts]), rows)
    assert positions.tolist() == list(range(step * batch, (step + 1) * batch))
    assert np.array_equal(rows, order.ids(step * batch, batch))


@settings(max_examples=30)
@given(st.integers(1, 3), st.integers(2, 9), st.integers(1, 5))
def test_a_window_touches_only_its_row_groups(interleave: int, groups: int, rows: int) -> None:
    order = SampleOrder([rows] * groups, 3, interleave)
    window = interleave * rows
    ids = order.ids(0, groups * rows)
    for first in range(0, len(ids), window):
        touched = {int(row) // rows for row in ids[first : first + window]}
        assert len(touched) <= interleave


def test_epochs_and_seeds_differ_and_rows_are_mixed() -> None:
    order = SampleOrder([50, 50], 0, 0)
    first, second = order.ids(0, 100), order.ids(100, 100)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, SampleOrder([50, 50], 1, 0).ids(0, 100))
    assert 10 < int((first[:50] < 50).sum()) < 40  # both groups in either half


def test_refusals() -> None:
    with pytest.raises(DataError, match="no rows to train on"):
        SampleOrder([0, 0], 0)
    with pytest.raises(ConfigError, match=r"batch=10: not divisible by run\.workers=4"):
        SampleOrder([20], 0).batch(0, 10, 0, 4)
