"""The lane groups that make up each shard; a group that two shards share is drawn once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from vim_core.config import SampleConfig

if TYPE_CHECKING:
    from vim_core.data.image_tables import ImageRow


def sample_ranges(config: SampleConfig) -> list[tuple[int, int]]:
    """Sample ranges [first, last) of the shards, contiguous."""
    bounds = [config.count * shard // config.shards for shard in range(config.shards + 1)]
    return list(pairwise(bounds))


def shard_name(config: SampleConfig, shard: int) -> str:
    """The shard's file."""
    return f"images/samples-{shard:05d}-of-{config.shards:05d}.parquet"


class GroupAssembly:
    """Rows of finished groups, held until the missing shards that they belong to are complete.

    Args:
        config: gives count, lanes and shards.
        missing: the shards that are to be made.
    """

    def __init__(self, config: SampleConfig, missing: Sequence[int]) -> None:
        self.lanes = config.lanes
        self._ranges = sample_ranges(config)
        self._missing: dict[int, range] = {}  # groups of each missing shard
        for shard in missing:
            first, last = self._ranges[shard]
            self._missing[shard] = range(first // self.lanes, -(-last // self.lanes)) if first < last else range(0)
        self._rows: dict[int, list[ImageRow]] = {}

    @property
    def groups(self) -> list[int]:
        """Groups that the missing shards are made of, in order."""
        return sorted({group for groups in self._missing.values() for group in groups})

    def add(self, group: int, rows: list[ImageRow]) -> Iterator[tuple[int, list[ImageRow]]]:
        """Take a group's rows; returns the shards that are complete now, with their rows."""
        self._rows[group] = rows
        yield from self.pop_complete()

    def pop_complete(self) -> Iterator[tuple[int, list[ImageRow]]]:
        """Shards whose groups are all there, each once; rows that no other shard needs are dropped."""
        for shard in [shard for shard, groups in self._missing.items() if all(g in self._rows for g in groups)]:
            groups = self._missing.pop(shard)
            first, last = self._ranges[shard]
            rows = [row for group in groups for row in self._rows[group]]
            start = groups.start * self.lanes
            yield shard, rows[first - start : last - start]
            needed = {group for others in self._missing.values() for group in others}
            for group in set(groups) - needed:
                del self._rows[group]
