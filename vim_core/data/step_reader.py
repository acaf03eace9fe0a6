"""Encoded images of consecutive steps: each row group is read once, ahead of its use, by the training's own process."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from vim_core.data import counters
from vim_core.data.image_tables import ImageTable
from vim_core.data.lane_schedule import Ids
from vim_core.data.sample_order import SampleOrder

T = TypeVar("T")

AHEAD = 4
"""Steps that are read before they are asked for, beside those that wait in data workers."""


@dataclass(frozen=True)
class StepImages:
    """A worker's share of a step: positions in the order [b], row numbers [b], encoded images [b]."""

    positions: Ids
    rows: Ids
    encoded: list[bytes]


class StepReader:
    """Reads a worker's share of steps; for one thread. Steps in their order cost one reading of each row group.

    The rows of a window are kept from its reading until each is used. A table that is shuffled as a whole stays in
    memory (`ImageTable.cached_groups`).
    """

    def __init__(self, table: ImageTable, order: SampleOrder, batch: int, rank: int, world: int) -> None:
        self.table = table
        self.order = order
        self.batch = batch
        self.rank = rank
        self.world = world
        self.share = order, batch, rank, world
        self._next = -1
        self._waiting: dict[int, bytes] = {}

    def read(self, step: int) -> StepImages:
        """The share of a step.

        Raises:
            DataError: a file of the table is missing or damaged.
            ConfigError: the workers do not divide the batch.
        """
        positions, rows = self.order.batch(step, self.batch, self.rank, self.world)
        lanes = self.order.lanes(self.batch)
        if not lanes:
            return StepImages(positions, rows, [self.table.image(row) for row in rows.tolist()])
        if step != self._next:
            self._waiting.clear()
        self._next = step + 1
        width, encoded = self.batch // lanes, []
        for slot, position in enumerate(positions.tolist(), self.rank * len(positions)):
            if position not in self._waiting:
                self._read_window(slot // width, step * width + slot % width, width)
            encoded.append(self._waiting.pop(position))
        return StepImages(positions, rows, encoded)

    def _read_window(self, lane: int, sample: int, width: int) -> None:
        """Take this worker's rows of a lane's window, from a sample on, into memory."""
        window = self.order.window(lane, sample, self.batch)
        samples = np.arange(sample, window.start + window.rows)
        slots = lane * width + samples % width
        positions = window.first + samples[slots // (self.batch // self.world) == self.rank] - window.start
        rows = self.order.rows(positions, self.batch)
        groups, offsets = self.table.places(rows)
        counters.add(images_kept=len(rows))
        for group in np.unique(groups).tolist():
            chosen = groups == group
            images = self.table.encoded(group, offsets[chosen])
            self._waiting.update(zip(positions[chosen].tolist(), images, strict=True))


def read_ahead(items: Iterator[T], ahead: int = AHEAD) -> Generator[T, None, None]:
    """The same items, made in a background thread up to `ahead` before they are asked for; close it to end the thread.

    The thread starts with the first item. An error of an item is raised in its place.
    """
    end = object()
    pool = ThreadPoolExecutor(1, "image-reader")
    waiting: deque[Future[T | object]] = deque()
    try:
        while True:
            while len(waiting) <= ahead:
                waiting.append(pool.submit(next, items, end))
            item = waiting.popleft().result()
            if item is end:
                return
            yield item  # type: ignore[misc]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
