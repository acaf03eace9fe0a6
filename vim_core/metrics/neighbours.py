"""Nearest neighbours among feature vectors: search, precision and recall, density and coverage.

Distances are computed in tiles: memory stays bounded however many vectors there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vim_core.errors import DataError

Array = NDArray[np.float64]
ROWS = 1000
"""Rows of a distance matrix in memory at once."""

COLUMNS = 8192
"""Columns of a tile in the search for neighbours."""

NEIGHBOURS = 3
"""k of precision and recall in the experiments of Kynkäänniemi et al."""

DENSITY_NEIGHBOURS = 5
"""k of density and coverage in the experiments of Naeem et al."""


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


def neighbour_radii(vectors: Array, neighbours: int) -> Array:
    """Squared distance [N] of each vector to its `neighbours`-th nearest; the nearest of all is the vector itself."""
    tiles = squared_distances(vectors, vectors)
    return np.concatenate([np.partition(tile, neighbours, axis=1)[:, neighbours] for tile in tiles])


def manifold_membership(
    real: NDArray[Any], generated: NDArray[Any], neighbours: int = NEIGHBOURS
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Generated features [M, D] that lie in the manifold of real ones [N, D], and real ones in that of the generated.

    A vector is in the manifold of a set if it is no farther from some vector of it than that one's `neighbours`-th
    nearest in the set. The mean of the first [M] is precision, of the second [N] recall. Distances are float64.

    Raises:
        DataError: unequal dimensions, or a side has no more vectors than neighbours.
    """
    check_dimensions(real, generated)
    x, y = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    if min(len(x), len(y)) <= neighbours:
        raise DataError(f"precision and recall need more than {neighbours} images a side: {len(x)} and {len(y)}")
    return _inside(y, x, neighbour_radii(x, neighbours)), _inside(x, y, neighbour_radii(y, neighbours))


def density_coverage(
    real: NDArray[Any], generated: NDArray[Any], neighbours: int = DENSITY_NEIGHBOURS
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Density of each generated feature [M, D], and whether each real one [N, D] is covered (Naeem et al. 2020).

    The mean of the first [M] is density (1 where both sides are one distribution; it may exceed 1), of the second [N]
    coverage in [0, 1]. A ball reaches from a real vector to its k-th nearest real neighbour; as in the authors' code,
    vectors on its surface are outside. Distances are float64.

    Raises:
        DataError: unequal dimensions, or there are no more real vectors than neighbours.
    """
    check_dimensions(real, generated)
    x, y = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    if len(x) <= neighbours or not len(y):
        raise DataError(
            f"density and coverage need more than {neighbours} real images and a sample: {len(x)}, {len(y)}"
        )
    radii = neighbour_radii(x, neighbours)
    density, covered = [], np.zeros(len(x), bool)
    for tile in squared_distances(y, x):  # [up to ROWS, N]
        inside = tile < radii
        density.append(inside.sum(axis=1) / neighbours)
        covered |= inside.any(axis=0)
    return np.concatenate(density), covered


def check_dimensions(x: NDArray[Any], y: NDArray[Any]) -> None:
    """Raise `DataError` for features [M, D] and [N, D'] of different widths."""
    if x.shape[1:] != y.shape[1:]:
        raise DataError(f"features of shapes {x.shape} and {y.shape} do not compare: they come from two networks")


def _inside(vectors: Array, centres: Array, radii: Array) -> NDArray[np.bool_]:
    return np.concatenate([(tile <= radii).any(axis=1) for tile in squared_distances(vectors, centres)])


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
        kept = min(count + 1, len(part))
        exact, rows = np.zeros((len(points), kept)), np.zeros((len(points), kept), np.int64)
        for number, tile in enumerate(squared_distances(points, part, block)):
            own = slice(number * block, (number + 1) * block)
            rows[own] = np.sort(np.argpartition(tile, kept - 1, axis=1)[:, :kept], axis=1)
            for rank in range(kept):
                exact[own, rank] = np.sqrt(np.square(points[own] - part[rows[own, rank]]).sum(axis=1))
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
