"""Which part of the order each lane of a batch walks, so that a reader of few lanes reads few row groups."""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

MAX_LANES = 64
"""Readers that each have lanes of their own; more workers share lanes, and then each of them reads all of its lane."""

STAGGERED = 6
"""Windows per lane from which on the first ones are cut to different lengths. Each cut window is read twice, once."""


def lanes_of(row_groups: int, batch: int) -> int:
    """The number of lanes: the largest power of two that divides the batch, with a row group for each, up to 64.

    Not of workers or processes, so that the order is the same for any number of them.
    """
    lanes = 1
    while lanes * 2 <= min(row_groups, MAX_LANES) and batch % (lanes * 2) == 0:
        lanes *= 2
    return lanes


class Window(NamedTuple):
    """Positions `first … first + rows - 1` of the order, which a lane walks from its `start`-th sample on."""

    start: int
    first: int
    rows: int


class LaneSchedule:
    """The windows of all epochs as one queue; a lane that has walked its window takes the next one.

    Each step takes equally many samples of every lane. So each sample comes once an epoch, and an epoch begins when the
    one before it has no window left, while other lanes still walk its last ones. Where there are many windows, the
    first ones are cut so that lanes do not all need a new one at the same step.

    Args:
        sizes: rows of each window of an epoch, in its order.
        lanes: samples taken at once.
    """

    def __init__(self, sizes: Callable[[int], Ids], lanes: int) -> None:
        self._sizes = sizes
        self._starts = [array("q") for _ in range(lanes)]
        self._firsts = [array("q") for _ in range(lanes)]
        self._rows = [array("q") for _ in range(lanes)]
        # By the sample where a lane's last window ends; of equal ones the first lane.
        self._ends = [(0, lane) for lane in range(lanes)]
        self._epoch = 0
        self._next = 0

    def window(self, lane: int, sample: int) -> Window:
        """The window that holds the lane's `sample`-th sample, counted from the start of the training."""
        while self._ends[0][0] <= sample:
            self._deal()
        index = bisect_right(self._starts[lane], sample) - 1
        return Window(self._starts[lane][index], self._firsts[lane][index], self._rows[lane][index])

    def positions(self, lane: int, start: int, count: int) -> Ids:
        """Positions in the order of the lane's samples `start … start + count - 1`."""
        parts = []
        while count > 0:
            window = self.window(lane, start)
            skipped = start - window.start
            taken = min(count, window.rows - skipped)
            parts.append(np.arange(window.first + skipped, window.first + skipped + taken))
            start, count = start + taken, count - taken
        return np.concatenate(parts)

    def _deal(self) -> None:
        """Give the windows of the next epoch to the lanes."""
        sizes = [int(rows) for rows in self._sizes(self._epoch) if rows > 0]
        lanes = len(self._starts)
        firsts = (self._next + np.cumsum([0, *sizes[:-1]])).tolist()
        windows = list(zip(firsts, sizes, strict=True))
        if self._epoch == 0 and len(windows) >= STAGGERED * lanes:
            cuts = [(-(-rows * (lane + 1) // lanes)) for lane, (_, rows) in enumerate(windows[:lanes])]
            heads = [(first, cut) for (first, _), cut in zip(windows, cuts, strict=False)]
            tails = [(first + cut, rows - cut) for (first, rows), cut in zip(windows, cuts, strict=False) if cut < rows]
            windows = heads + windows[lanes:] + tails
        for first, rows in windows:
            end, lane = heapq.heappop(self._ends)
            self._starts[lane].append(end)
            self._firsts[lane].append(first)
            self._rows[lane].append(rows)
            heapq.heappush(self._ends, (end + rows, lane))
        self._next += sum(sizes)
        self._epoch += 1
