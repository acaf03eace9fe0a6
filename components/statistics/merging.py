"""Merging statistics of shards in Beam so that the bits do not depend on the order in which they arrive."""

from __future__ import annotations

from functools import cache
from typing import Any

from vim_core.metrics.feature_statistics import insert, total
from vim_core.storage import io

Nodes = dict[tuple[int, int], Any]


@cache
def _combiner() -> Any:
    import apache_beam as beam

    class MergeInOrder(beam.CombineFn):
        """Elements are (shard number, URI of its statistics); the result is the statistics of all."""

        def create_accumulator(self) -> Nodes:
            return {}

        def add_input(self, nodes: Nodes, element: tuple[int, str]) -> Nodes:
            from vim_core.metrics import feature_statistics

            index, uri = element
            insert(nodes, 0, index, feature_statistics.from_bytes(io.read_bytes(uri)))
            return nodes

        def merge_accumulators(self, accumulators: Any) -> Nodes:
            merged: Nodes = {}
            for nodes in accumulators:
                for (level, index), part in nodes.items():
                    insert(merged, level, index, part)
            return merged

        def extract_output(self, nodes: Nodes) -> Any:
            return total(nodes)

    return MergeInOrder


def merge_in_order() -> Any:
    """A Beam CombineFn of (shard number, URI) pairs."""
    return _combiner()()
