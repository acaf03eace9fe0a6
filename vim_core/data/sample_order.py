"""The sample order as a pure function of the step: data state is a position, never an iterator (contract 4)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from vim_core.data.lane_schedule import Ids, LaneSchedule, Window, lanes_of
from vim_core.errors import ConfigError, DataError


def keyed_rng(*key: int | str) -> np.random.Generator:
    """A random generator whose stream depends only on the key; the same on every machine and numpy version."""
    text = "\x1f".join(f"{type(word).__name__}:{word}" for word in key)
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=seed))


class SampleOrder:
    """Shuffled order over a table of row groups, as a pure function of (seed, step); each row comes once an epoch.

    Each epoch permutes the row groups, takes a window of some at a time and shuffles the rows of that window, so a
    reader has few row groups open at once. Ingest assigns rows to shards by hash, so a row group is already a random
    sample of the table. A row's number in the shuffled table plus the rows of the epochs before is its position.

    A table of at most `interleave` row groups is shuffled as a whole, and step `s` takes the positions from `s * batch`
    on. In a larger one the batch has lanes (`lanes_of`), each of which walks windows of its own (`LaneSchedule`).

    Args:
        row_groups: rows of each row group, in table order.
        seed: the training seed.
        interleave: row groups from which a batch is drawn at least; 0 for all.

    Raises:
        DataError: the table is empty.
    """

    def __init__(self, row_groups: Sequence[int], seed: int, interleave: int = 0) -> None:
        self.sizes = np.asarray(row_groups, dtype=np.int64)
        self.total = int(self.sizes.sum())
        if self.total == 0:
            raise DataError("the table has no rows to train on: ingest found no images for this split")
        self.seed = seed
        self.interleave = interleave or len(self.sizes)
        self._starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        self._epoch = lru_cache(maxsize=2)(self._permutation)
        self._schedule = lru_cache(maxsize=2)(self._make_schedule)

    def lanes(self, batch: int) -> int:
        """Lanes of a batch; 0 where the table is shuffled as a whole."""
        return 0 if len(self.sizes) <= self.interleave else lanes_of(len(self.sizes), batch)

    def window(self, lane: int, sample: int, batch: int) -> Window:
        """The window of the lane's `sample`-th sample."""
        return self._schedule(batch).window(lane, sample)

    def _window_groups(self, batch: int) -> int:
        """Row groups of a window: those of all lanes together are `interleave` or more."""
        return max(1, self.interleave // max(1, self.lanes(batch)))

    def _make_schedule(self, batch: int) -> LaneSchedule:
        groups = self._window_groups(batch)

        def sizes(epoch: int) -> Ids:
            rows = self.sizes[self._groups(epoch)[1]]
            return np.add.reduceat(rows, np.arange(0, len(rows), groups))

        return LaneSchedule(sizes, self.lanes(batch))

    def _groups(self, epoch: int) -> tuple[np.random.Generator, Ids]:
        rng = keyed_rng("order", self.seed, epoch)
        return rng, rng.permutation(len(self.sizes))

    def _permutation(self, epoch: int, window: int) -> Ids:
        """Row numbers [total] in the order of an epoch, with so many row groups in a window."""
        rng, groups = self._groups(epoch)
        windows = []
        for first in range(0, len(groups), window):
            chosen = groups[first : first + window]
            rows = np.concatenate([self._starts[g] + np.arange(self.sizes[g]) for g in chosen])
            windows.append(rng.permutation(rows))
        return np.concatenate(windows)

    def rows(self, positions: Ids, batch: int) -> Ids:
        """Row numbers [n] at positions [n] in the order for this batch."""
        epochs, offsets = np.divmod(positions, self.total)
        rows = np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            chosen = epochs == epoch
            rows[chosen] = self._epoch(epoch, self._window_groups(batch))[offsets[chosen]]
        return rows

    def fresh(self) -> SampleOrder:
        """The same order as another object, for another thread."""
        return SampleOrder(self.sizes.tolist(), self.seed, self.interleave)

    def positions(self, step: int, batch: int, start: int, stop: int) -> Ids:
        """Positions of the samples `start … stop - 1` of a step's batch."""
        lanes = self.lanes(batch)
        if not lanes:
            return np.arange(step * batch + start, step * batch + stop)
        width = batch // lanes
        own = range(start // width, -(-stop // width))
        parts = [self._schedule(batch).positions(lane, step * width, width) for lane in own]
        return np.concatenate(parts)[start - own.start * width :][: stop - start]

    def batch(self, step: int, batch: int, rank: int = 0, world: int = 1) -> tuple[Ids, Ids]:
        """Positions and row numbers of this rank's slice of step `step`; ranks slice one global batch.

        Raises:
            ConfigError: the world size does not divide the batch.
        """
        if batch % world:
            raise ConfigError(f"batch={batch}: not divisible by run.workers={world}")
        share = batch // world
        positions = self.positions(step, batch, rank * share, (rank + 1) * share)
        return positions, self.rows(positions, batch)
