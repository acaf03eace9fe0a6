"""Statistics of a set of images: accumulated over batches, merged in a fixed tree, read from files of any kind.

Merging follows a binary tree over part numbers, so the bits of a result do not depend on the order in which parts come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vim_core.data.image_tables import stable_hash
from vim_core.errors import DataError
from vim_core.metrics import npz
from vim_core.metrics.frechet import Moments
from vim_core.metrics.inception_score import ScoreSums
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.features import Features


SAMPLE_ARRAYS = {"limit": ("int64", 0), "hashes": ("uint64", 1), "features": ("float32", 2)}
SAMPLE_KIND = "a sample of features: run statistics again"


@dataclass(frozen=True)
class FeatureSample:
    """At most `limit` feature vectors [n, D] of a set of images: those with the lowest `hashes` [n], ascending.

    A hash of each image's key makes this a uniform sample that any split, order and merge tree draws alike.
    """

    limit: int
    hashes: NDArray[np.uint64]
    features: NDArray[np.float32]

    @staticmethod
    def empty(dim: int, limit: int) -> FeatureSample:
        """The sample of no images."""
        return FeatureSample(limit, np.zeros(0, np.uint64), np.zeros((0, dim), np.float32))

    @staticmethod
    def from_batch(features: Any, hashes: NDArray[np.uint64], limit: int) -> FeatureSample:
        """The sample of features [N, D] whose images have these hashes [N].

        Raises `DataError` for other shapes and values that are not finite.
        """
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
        arrays = npz.unpack_checked(data, SAMPLE_ARRAYS, SAMPLE_KIND)
        if arrays["hashes"].shape != arrays["features"].shape[:1]:
            raise DataError(f"not {SAMPLE_KIND} (hashes and vectors differ in number)")
        return FeatureSample(int(arrays["limit"]), arrays["hashes"], arrays["features"])


P = TypeVar("P", Moments, ScoreSums, FeatureSample)
Nodes = dict[tuple[int, int], P]
"""Nodes of a merge tree by (level, index); a node covers parts index * 2^level to (index + 1) * 2^level - 1."""


def insert(nodes: Nodes[P], level: int, index: int, part: P) -> None:
    """Put a node into a merge tree; where both children of a node are there, the node replaces them.

    Parts that are inserted in order leave at most log2 of their number in memory.
    """
    while (other := nodes.pop((level, index ^ 1), None)) is not None:
        left, right = (other, part) if index & 1 else (part, other)
        level, index, part = level + 1, index >> 1, left.merge(right)
    nodes[level, index] = part


def total(nodes: Nodes[P]) -> P:
    """All nodes merged, beginning at the incomplete end of the tree. Raises `DataError` where there are none."""
    if not nodes:
        raise DataError("no statistics to merge: there are no images")
    ordered = sorted(nodes, key=lambda node: node[1] << node[0])
    return reduce(lambda right, left: left.merge(right), (nodes[node] for node in reversed(ordered)))


def merge_all(parts: Iterable[P]) -> P:
    """Statistics of all parts together, few of them in memory at once. Raises `DataError` for no parts."""
    nodes: Nodes[P] = {}
    for index, part in enumerate(parts):
        insert(nodes, 0, index, part)
    return total(nodes)


READERS: dict[str, Callable[[bytes], Any]] = {
    "m2": Moments.from_bytes,
    "negentropy": ScoreSums.from_bytes,
    "hashes": FeatureSample.from_bytes,
}
"""Reader of each kind of file, by the array that only this kind has."""


def from_bytes(data: bytes) -> Any:
    """`Moments`, `ScoreSums` or `FeatureSample`, as the file holds. Raises `DataError` for any other."""
    names = npz.names(data)
    for name, reader in READERS.items():
        if name in names:
            return reader(data)
    raise DataError(f"not a statistics file (arrays: {', '.join(sorted(names)) or 'none'}): run statistics again")


def merge_files(uris: Iterable[str]) -> Any:
    """The statistics of all files together.

    Raises:
        DataError: no files, files of different kinds or networks, or files of something else.
    """
    kinds: set[type] = set()

    def read(uri: str) -> Any:
        part = from_bytes(io.read_bytes(uri))
        kinds.add(type(part))
        if len(kinds) > 1:
            raise DataError(f"{uri} holds {type(part).__name__}, the files before it another kind of statistics")
        return part

    return merge_all(read(uri) for uri in uris)


def half_of(key: str) -> int:
    """The half of the real images that an image belongs to, 0 or 1."""
    return stable_hash("half", key) % 2


def split_of(key: str, splits: int) -> int:
    """The split of the Inception Score that an image belongs to, 0 to splits - 1."""
    return stable_hash("score split", key) % splits


def rank_of(key: str) -> int:
    """Rank of an image, 0 to 2^64 - 1; the images of lowest rank are the sample for precision and recall."""
    return stable_hash("features", key) >> 192


class FeatureStatistics:
    """Accumulates moments of all images and, optionally, of both halves, Inception Score sums and a feature sample.

    Whole batches are collected until there are as many images as dimensions, and then become one leaf of a merge tree:
    merging smaller leaves would cost more than computing them. Memory grows by one node when the images double.

    Args:
        dim: dimension of the features.
        classes: number of the logits.
        halves: whether to compute moments of the halves.
        splits: splits of the Inception Score, 0 for none.
        features: size of the feature sample, 0 for none.
        padded: the trees begin with an empty leaf, as in the first version: another tree would change the last bits.
        spatial: dimension of the spatial features of sFID, 0 for none.
    """

    def __init__(
        self,
        dim: int,
        classes: int = 0,
        halves: bool = False,
        splits: int = 0,
        features: int = 0,
        padded: bool = False,
        spatial: int = 0,
    ) -> None:
        self.dim, self.splits = dim, splits
        self.trees: list[dict[tuple[int, int], Moments]] = [{} for _ in range(3 if halves else 1)]
        self.leaves = 0
        if padded:
            self._grow([Moments.empty(dim)] * len(self.trees))
        self.scores = ScoreSums.empty(splits, classes) if splits else None
        self.sample = FeatureSample.empty(dim, features) if features else None
        self.spatial = FeatureStatistics(spatial) if spatial else None
        self.count = 0
        self._keys: list[str] = []
        self._pending: list[Any] = []

    def add(self, keys: Sequence[str], features: Features, splits: NDArray[np.int64] | None = None) -> None:
        """Add a batch of images by key; `splits` [N] replaces the splits of `split_of`.

        Raises `DataError` for features that are not finite.
        """
        self.count += len(keys)
        self._keys += keys
        self._pending.append(features.features.numpy())
        if self.scores is not None:
            if splits is None:
                splits = np.array([split_of(key, self.splits) for key in keys], dtype=np.int64)
            self.scores = self.scores.merge(ScoreSums.from_batch(features.logits, splits, self.splits))
        if self.spatial is not None and features.spatial is not None:
            self.spatial.add(keys, replace(features, features=features.spatial, spatial=None))
        if len(self._keys) >= self.dim:
            self._flush()

    def parts(self) -> list[Any]:
        """Moments of all images, of the halves, score sums, feature sample, spatial moments, as far as configured."""
        self._flush()
        moments = [total(tree) if tree else Moments.empty(self.dim) for tree in self.trees]
        spatial = self.spatial.parts() if self.spatial is not None else []
        return [*moments, *(part for part in (self.scores, self.sample) if part is not None), *spatial]

    def _flush(self) -> None:
        if not self._keys:
            return
        keys, features = self._keys, np.concatenate(self._pending)
        self._keys, self._pending = [], []
        side = np.array([half_of(key) for key in keys])
        chosen = (features, features[side == 0], features[side == 1])
        self._grow([Moments.from_batch(values) for values in chosen[: len(self.trees)]])
        if self.sample is not None:
            ranks = np.array([rank_of(key) for key in keys], dtype=np.uint64)
            self.sample = self.sample.merge(FeatureSample.from_batch(features, ranks, self.sample.limit))

    def _grow(self, leaves: list[Moments]) -> None:
        for tree, leaf in zip(self.trees, leaves, strict=True):
            insert(tree, 0, self.leaves, leaf)
        self.leaves += 1
