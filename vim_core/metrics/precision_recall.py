"""Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020), from bounded samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vim_core.errors import DataError
from vim_core.metrics import npz
from vim_core.metrics.distances import Array, neighbour_radii, squared_distances

FeatureArray = NDArray[np.float32]
NEIGHBOURS = 3
"""k of precision and recall in the experiments of Kynkäänniemi et al."""
DENSITY_NEIGHBOURS = 5
"""k of density and coverage in the experiments of Naeem et al."""
BLOCK = 1000
"""Rows of a distance matrix held at once."""

ARRAYS = {"limit": ("int64", 0), "hashes": ("uint64", 1), "features": ("float32", 2)}
KIND = "a sample of features: run statistics again"


@dataclass(frozen=True)
class FeatureSample:
    """At most `limit` feature vectors [n, D] of a set of images: those with the lowest `hashes` [n], ascending.

    A hash of each image's key makes this a uniform sample that any split, order and merge tree draws alike.
    """

    limit: int
    hashes: NDArray[np.uint64]
    features: FeatureArray

    @property
    def count(self) -> int:
        """Vectors kept."""
        return int(self.hashes.size)

    @staticmethod
    def empty(dim: int, limit: int) -> FeatureSample:
        """The sample of no images."""
        return FeatureSample(limit, np.zeros(0, np.uint64), np.zeros((0, dim), np.float32))

    @staticmethod
    def from_batch(features: Any, hashes: NDArray[np.uint64], limit: int) -> FeatureSample:
        """The sample of features [N, D], an array or tensor, whose images have these hashes [N].

        Raises `DataError` for other shapes and values that are not finite.
        """
        if hasattr(features, "detach"):
            features = features.detach().cpu().float().numpy()
        values = np.asarray(features, dtype=np.float32)
        if values.ndim != 2 or hashes.shape != values.shape[:1]:
            raise DataError(f"features of shape {values.shape} and {hashes.shape} hashes: expected one per row")
        if not np.isfinite(values).all():
            raise DataError("features are not finite: the network or its weights are damaged")
        order = np.argsort(hashes, kind="stable")[:limit]
        return FeatureSample(limit, np.asarray(hashes, np.uint64)[order], values[order])

    def merge(self, other: FeatureSample) -> FeatureSample:
        """The sample of both sets. Raises `DataError` where limits or dimensions differ."""
        if (self.limit, self.features.shape[1]) != (other.limit, other.features.shape[1]):
            raise DataError(
                f"samples of {self.limit} features in {self.features.shape[1]} dimensions and {other.limit} in "
                f"{other.features.shape[1]} do not merge: two networks or settings made them"
            )
        hashes = np.concatenate([self.hashes, other.hashes])
        return FeatureSample.from_batch(np.concatenate([self.features, other.features]), hashes, self.limit)

    def to_bytes(self) -> bytes:
        """An npz file; equal samples give equal bytes."""
        return npz.pack(limit=np.int64(self.limit), hashes=self.hashes, features=self.features)

    @staticmethod
    def from_bytes(data: bytes) -> FeatureSample:
        """Read what `to_bytes` wrote. Raises `DataError` for anything else."""
        arrays = npz.unpack_checked(data, ARRAYS, KIND)
        if arrays["hashes"].shape != arrays["features"].shape[:1]:
            raise DataError(f"not {KIND} (hashes and vectors differ in number)")
        return FeatureSample(int(arrays["limit"]), arrays["hashes"], arrays["features"])


def manifold_membership(
    real: NDArray[Any], generated: NDArray[Any], neighbours: int = NEIGHBOURS
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Generated features [M, D] that lie in the manifold of real ones [N, D], and real ones in that of the generated.

    A vector is in the manifold of a set if it is no farther from some vector of it than that one's `neighbours`-th
    nearest in the set. The mean of the first [M] is precision, of the second [N] recall. Distances are float64.

    Raises:
        DataError: unequal dimensions, or a side has no more vectors than neighbours.
    """
    x, y = _comparable(real, generated)
    if min(len(x), len(y)) <= neighbours:
        raise DataError(f"precision and recall need more than {neighbours} images a side: {len(x)} and {len(y)}")
    return _inside(y, x, neighbour_radii(x, neighbours, BLOCK)), _inside(x, y, neighbour_radii(y, neighbours, BLOCK))


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
    x, y = _comparable(real, generated)
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


def _comparable(real: NDArray[Any], generated: NDArray[Any]) -> tuple[Array, Array]:
    x, y = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    if x.shape[1:] != y.shape[1:]:
        raise DataError(f"features of shapes {x.shape} and {y.shape} do not compare: they come from two networks")
    return x, y


def _inside(vectors: Array, centres: Array, radii: Array) -> NDArray[np.bool_]:
    return np.concatenate([(tile <= radii).any(axis=1) for tile in squared_distances(vectors, centres, BLOCK)])
