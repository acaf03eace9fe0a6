"""Everything that is summed over a set of images in one pass, as they come by in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vim_core.data.image_tables import hashed
from vim_core.metrics.inception_score import ScoreSums
from vim_core.metrics.merge_tree import insert, total
from vim_core.metrics.moments import Moments
from vim_core.metrics.precision_recall import FeatureSample

if TYPE_CHECKING:
    from vim_core.features import Features


def half_of(key: str) -> int:
    """Which half of the real images an image belongs to, 0 or 1."""
    return hashed("half", key) % 2


def split_of(key: str, splits: int) -> int:
    """Which split of the Inception Score an image belongs to."""
    return hashed("score split", key) % splits


def group_of(key: str, groups: int) -> int:
    """Which group an image belongs to where an interval is taken from what groups of images score."""
    return hashed("group", key) % groups


def rank_of(key: str) -> int:
    """Where an image stands in the order in which features are kept for precision and recall, 0 to 2^64 - 1."""
    return hashed("features", key) >> 192


class FeatureStatistics:
    """Moments of all images and, if asked for, of both halves; sums of the Inception Score; a sample of features.

    Features wait until they are as many as they have dimensions, in whole batches, and then become one leaf of a merge
    tree: fewer would cost more in merging than in adding up. What is held does not grow with the images but by one
    node whenever their number doubles.

    Args:
        dim: dimension of the features.
        classes: number of the logits.
        halves: whether to keep the moments of the halves.
        splits: splits of the Inception Score, 0 for none.
        features: images at most in the sample of features, 0 for none.
        padded: the trees begin with an empty leaf; another tree would move the last bits of what was measured before.
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
        self._waiting: list[Any] = []

    def add(self, keys: Sequence[str], taken: Features, splits: NDArray[np.int64] | None = None) -> None:
        """Take in a batch of images by key; `splits` [N] where the score's are not those of `split_of`.

        Raises `DataError` for features that are not finite.
        """
        self.count += len(keys)
        self._keys += keys
        self._waiting.append(taken.features.numpy())
        if self.scores is not None:
            if splits is None:
                splits = np.array([split_of(key, self.splits) for key in keys], dtype=np.int64)
            self.scores = self.scores.merge(ScoreSums.from_batch(taken.logits, splits, self.splits))
        if self.spatial is not None and taken.spatial is not None:
            self.spatial.add(keys, replace(taken, features=taken.spatial, spatial=None))
        if len(self._keys) >= self.dim:
            self._flush()

    def parts(self) -> list[Any]:
        """Moments of all images, of the halves, score sums, feature sample, spatial moments: what was asked for."""
        self._flush()
        moments = [total(tree) if tree else Moments.empty(self.dim) for tree in self.trees]
        spatial = self.spatial.parts() if self.spatial is not None else []
        return [*moments, *(part for part in (self.scores, self.sample) if part is not None), *spatial]

    def _flush(self) -> None:
        if not self._keys:
            return
        keys, features = self._keys, np.concatenate(self._waiting)
        self._keys, self._waiting = [], []
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
