"""The sample order as a pure function of the step: data state is a position, never an iterator (contract 4)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vim_core.errors import ConfigError, DataError

Ids = NDArray[np.int64]


def keyed_rng(*key: int | str) -> np.random.Generator:
    """A random generator whose stream depends only on the key; the same on every machine and numpy version."""
    text = "\x1f".join(f"{type(word).__name__}:{word}" for word in key)
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=seed))


class SampleOrder:
    """Shuffled order over a table of row groups, as a pure function of (seed, position).

    Each epoch permutes the row groups, takes `interleave` of them at a time and shuffles the rows of that window, so a
    reader has few row groups open at once. Ingest assigns rows to shards by hash, so a row group is already a random
    sample of the table. `interleave=0` shuffles the whole table.

    Args:
        row_groups: rows of each row group, in table order.
        seed: the training seed.
        interleave: row groups read at once; 0 for all.

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

    def _permutation(self, epoch: int) -> Ids:
        """Row numbers [total] in the order of an epoch."""
        rng = keyed_rng("order", self.seed, epoch)
        groups = rng.permutation(len(self.sizes))
        windows = []
        for first in range(0, len(groups), self.interleave):
            chosen = groups[first : first + self.interleave]
            rows = np.concatenate([self._starts[g] + np.arange(self.sizes[g]) for g in chosen])
            windows.append(rng.permutation(rows))
        return np.concatenate(windows)

    def ids(self, position: int, count: int) -> Ids:
        """Row numbers `[count]` of the samples at global positions `position … position + count - 1`."""
        parts: list[Ids] = []
        while count > 0:
            epoch, offset = divmod(position, self.total)
            part = self._epoch(epoch)[offset : offset + count]
            parts.append(part)
            position += len(part)
            count -= len(part)
        return np.concatenate(parts)

    def batch(self, step: int, batch: int, rank: int = 0, world: int = 1) -> tuple[Ids, Ids]:
        """Global positions and row numbers of this rank's slice of step `step`; ranks slice one global batch.

        Raises:
            ConfigError: the world size does not divide the batch.
        """
        if batch % world:
            raise ConfigError(f"batch={batch}: not divisible by run.workers={world}")
        share = batch // world
        start = step * batch + rank * share
        return np.arange(start, start + share), self.ids(step * batch, batch)[rank * share : (rank + 1) * share]
