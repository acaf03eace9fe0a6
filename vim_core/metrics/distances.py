"""Distances between many feature vectors, in tiles: memory stays bounded however many there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ROWS = 1000
"""Rows of a distance matrix in memory at once."""

COLUMNS = 8192
"""Columns of a tile in the search for neighbours."""


def squared_distances(rows: Array, others: Array, block: int = ROWS) -> Iterator[Array]:
    """Squared distances [up to `block`, M] from blocks of `rows` [N, D] to all `others` [M, D], in float64.

    Both are centred on the mean of `others`, so that large offsets cost no digits; rounding may leave values a little
    below zero where vectors are equal.
    """
    centre = others.mean(axis=0)
    others = others - centre
    lengths = np.square(others).sum(axis=1)
    for start in range(0, len(rows), block):
        part = rows[start : start + block] - centre
        yield np.square(part).sum(axis=1)[:, None] + lengths - 2 * part @ others.T


def neighbour_radii(vectors: Array, neighbours: int, block: int = ROWS) -> Array:
    """Squared distance [N] of each vector to its `neighbours`-th nearest; the nearest of all is the vector itself."""
    found = [
        np.partition(tile, neighbours, axis=1)[:, neighbours] for tile in squared_distances(vectors, vectors, block)
    ]
    return np.concatenate(found)


def nearest(
    queries: NDArray[Any], vectors: NDArray[Any], count: int, block: int = ROWS, columns: int = COLUMNS
) -> tuple[Array, NDArray[np.int64]]:
    """The `count` nearest `vectors` [M, D] of every query [N, D]: distances and rows [N, count], nearest first.

    Exact: every pair is compared, in tiles of `block` x `columns`; distances of the candidates are computed again from
    differences, so that a copy has distance 0. Equal distances come in the order of rows. Fewer vectors than `count`
    give fewer columns.
    """
    points = np.asarray(queries, np.float64)
    best = np.full((len(points), 0), np.inf), np.zeros((len(points), 0), np.int64)
    for first in range(0, len(vectors), columns):
        part = np.asarray(vectors[first : first + columns], np.float64)
        found = [_smallest(tile, count + 1) for tile in squared_distances(points, part, block)]
        rows = np.concatenate(found) if found else np.zeros((0, 0), np.int64)  # [N, up to count + 1]
        exact = np.stack([_exact(points, part, rows[:, rank]) for rank in range(rows.shape[1])], axis=1)
        best = merge_nearest(best, (exact, rows + first), count)
    return best


def merge_nearest(
    one: tuple[Array, NDArray[Any]], other: tuple[Array, NDArray[Any]], count: int
) -> tuple[Array, NDArray[Any]]:
    """The `count` nearest of two results (distances, rows or keys), each [N, any]; ties in the order given."""
    distances = np.concatenate([one[0], other[0]], axis=1)
    entries = np.concatenate([one[1], other[1]], axis=1)
    order = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(entries, order, 1)


def _smallest(tile: Array, count: int) -> NDArray[np.int64]:
    """Columns of the smallest entries of each row, in the order of columns."""
    if tile.shape[1] <= count:
        return np.broadcast_to(np.arange(tile.shape[1]), tile.shape).astype(np.int64)
    return np.sort(np.argpartition(tile, count - 1, axis=1)[:, :count], axis=1)


def _exact(queries: Array, vectors: Array, rows: NDArray[np.int64]) -> Array:
    """Distance [N] of each query [N, D] to the vector in its row, in blocks of `ROWS`."""
    parts = [
        np.sqrt(np.square(queries[start : start + ROWS] - vectors[rows[start : start + ROWS]]).sum(axis=1))
        for start in range(0, len(queries), ROWS)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)
