"""Improved precision and recall (Kynkäänniemi et al. 2019), and the bounded sample of features they are taken from."""

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
BLOCK = 1000
"""Rows of a distance matrix held at once."""

FORM = {"limit": ("int64", 0), "hashes": ("uint64", 1), "features": ("float32", 2)}


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
        arrays = npz.unpack(data, FORM, "a sample of features")
        if arrays["hashes"].shape != arrays["features"].shape[:1]:
            raise DataError("not a sample of features (hashes and vectors differ in number): run statistics again")
        return FeatureSample(int(arrays["limit"]), arrays["hashes"], arrays["features"])


def precision_recall(real: NDArray[Any], made: NDArray[Any], neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Precision and recall in [0, 1] of generated features [M, D] against real ones [N, D].

    Precision is the share of generated vectors no farther from some real vector than its `neighbours`-th nearest real
    neighbour; recall the same with the sides exchanged. Distances are float64. Raises `DataError` for unequal
    dimensions and for sides of no more vectors than neighbours.
    """
    precise, recalled = manifold_membership(real, made, neighbours)
    return float(precise.mean()), float(recalled.mean())


def manifold_membership(
    real: NDArray[Any], made: NDArray[Any], neighbours: int = NEIGHBOURS
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The same vector by vector: which generated ones [M] lie among the real, and which real ones [N] among those."""
    x, y = np.asarray(real, np.float64), np.asarray(made, np.float64)
    if x.shape[1:] != y.shape[1:]:
        raise DataError(f"features of shapes {x.shape} and {y.shape} do not compare: they come from two networks")
    if min(len(x), len(y)) <= neighbours:
        raise DataError(f"precision and recall need more than {neighbours} images a side: {len(x)} and {len(y)}")
    return _inside(y, x, neighbour_radii(x, neighbours, BLOCK)), _inside(x, y, neighbour_radii(y, neighbours, BLOCK))


def _inside(vectors: Array, centres: Array, reach: Array) -> NDArray[np.bool_]:
    return np.concatenate([(tile <= reach).any(axis=1) for tile in squared_distances(vectors, centres, BLOCK)])
