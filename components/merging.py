"""Merging moments of shards in Beam so that the bits do not depend on the order in which they arrive."""

from __future__ import annotations

from functools import cache, reduce
from typing import TYPE_CHECKING, Any

from vim_core import io

if TYPE_CHECKING:
    from vim_core.metrics.moments import Moments


def insert(nodes: dict[tuple[int, int], Moments], level: int, index: int, moments: Moments) -> None:
    """Put a node into a binary tree over shard numbers; whenever both children are there, their parent replaces them.

    Node (level, index) covers shards index * 2^level to (index + 1) * 2^level - 1. Which moments are merged with which
    is fixed by their numbers, so any order of insertion gives the same bits.
    """
    while (other := nodes.pop((level, index ^ 1), None)) is not None:
        left, right = (other, moments) if index & 1 else (moments, other)
        level, index, moments = level + 1, index >> 1, left.merge(right)
    nodes[level, index] = moments


def total(nodes: dict[tuple[int, int], Moments]) -> Moments:
    """All nodes merged from the first shard to the last."""
    ordered = sorted(nodes, key=lambda node: node[1] << node[0])
    return reduce(lambda left, right: left.merge(right), (nodes[node] for node in ordered))


@cache
def _combiner() -> Any:
    import apache_beam as beam

    class MergeInOrder(beam.CombineFn):
        """Elements are (shard number, URI of its moments); the result is the moments of all."""

        def create_accumulator(self) -> dict[tuple[int, int], Moments]:
            return {}

        def add_input(self, nodes: dict[tuple[int, int], Moments], element: tuple[int, str]) -> Any:
            from vim_core.metrics.moments import Moments

            index, uri = element
            insert(nodes, 0, index, Moments.from_bytes(io.read_bytes(uri)))
            return nodes

        def merge_accumulators(self, accumulators: Any) -> dict[tuple[int, int], Moments]:
            merged: dict[tuple[int, int], Moments] = {}
            for nodes in accumulators:
                for (level, index), moments in nodes.items():
                    insert(merged, level, index, moments)
            return merged

        def extract_output(self, nodes: dict[tuple[int, int], Moments]) -> Moments:
            return total(nodes)

    return MergeInOrder


def merge_in_order() -> Any:
    """A Beam CombineFn of (shard number, URI) pairs."""
    return _combiner()()
