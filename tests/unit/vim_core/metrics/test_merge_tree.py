"""The merge tree: bit-equal in any order, equal to pairwise merging of the whole list, few nodes at once."""

from __future__ import annotations

import random

import numpy as np
import pytest

from vim_core.metrics.merge_tree import insert, total
from vim_core.metrics.moments import Moments, merge_all


def leaves(count: int) -> list[Moments]:
    rng = np.random.default_rng(3)
    return [Moments.from_batch(rng.normal(size=(rng.integers(0, 9), 4))) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 11, 16, 21])
def test_any_order_gives_the_bits_of_pairwise_merging(count: int) -> None:
    parts = leaves(count)
    for seed in range(4):
        order = list(range(count))
        random.Random(seed).shuffle(order)
        nodes: dict[tuple[int, int], Moments] = {}
        for index in order:
            insert(nodes, 0, index, parts[index])
        assert total(nodes).to_bytes() == merge_all(parts).to_bytes()


def test_in_order_few_nodes_are_held() -> None:
    nodes: dict[tuple[int, int], Moments] = {}
    for index, part in enumerate(leaves(64)):
        insert(nodes, 0, index, part)
        assert len(nodes) <= 6
    assert len(nodes) == 1
