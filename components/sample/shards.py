"""Which lane groups make up which shards; a group that two shards share is drawn once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from vim_core.config import SampleConfig

if TYPE_CHECKING:
    from vim_core.data.image_tables import ImageRow


def ranges(config: SampleConfig) -> list[tuple[int, int]]:
    """Sample ranges [first, last) of the shards, contiguous."""
    bounds = [config.count * shard // config.shards for shard in range(config.shards + 1)]
    return list(pairwise(bounds))


def name(config: SampleConfig, shard: int) -> str:
    """The shard's file."""
    return f"images/samples-{shard:05d}-of-{config.shards:05d}.parquet"


class Assembly:
    """Rows of finished groups, kept until the missing shards that they belong to are whole.

    Args:
        config: count, lanes and shards.
        missing: shards that are to be made.
    """

    def __init__(self, config: SampleConfig, missing: Sequence[int]) -> None:
        self.lanes = config.lanes
        self._range = ranges(config)
        self._open = {shard: self._groups(shard) for shard in missing}
        self._rows: dict[int, list[ImageRow]] = {}

    def _groups(self, shard: int) -> range:
        first, last = self._range[shard]
        return range(first // self.lanes, -(-last // self.lanes)) if first < last else range(0)

    @property
    def groups(self) -> list[int]:
        """Groups that the missing shards are made of, in order."""
        return sorted({group for groups in self._open.values() for group in groups})

    @property
    def held(self) -> int:
        """Rows in memory."""
        return sum(map(len, self._rows.values()))

    def add(self, group: int, rows: list[ImageRow]) -> Iterator[tuple[int, list[ImageRow]]]:
        """Take a group's rows; gives the shards that are whole now, with theirs."""
        self._rows[group] = rows
        yield from self.whole()

    def whole(self) -> Iterator[tuple[int, list[ImageRow]]]:
        """Shards of which nothing is missing any more, each once."""
        for shard in [shard for shard, groups in self._open.items() if all(g in self._rows for g in groups)]:
            groups = self._open.pop(shard)
            yield shard, self._cut(shard, groups)
            needed = {group for others in self._open.values() for group in others}
            for group in set(groups) - needed:
                del self._rows[group]

    def _cut(self, shard: int, groups: range) -> list[ImageRow]:
        first, last = self._range[shard]
        rows = [row for group in groups for row in self._rows[group]]
        start = groups.start * self.lanes
        return rows[first - start : last - start]
