"""Conventions of other evaluators by name: what torch-fidelity and guided-diffusion's evaluator do with features.

Both resize as TensorFlow 1 does, straight to 299 pixels without antialias, divide covariances by N - 1, leave the last
bias out of the Inception Score's logits, and take k = 3 for precision and recall on pool features. They differ in the
splits of the Inception Score, in which figures they have, and in the real images that samples are compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vim_core.errors import DataError
from vim_core.metrics.feature_statistics import FeatureSample, rank_of, split_of

SEED = 2020
"""torch-fidelity's default `rng_seed`."""
SHUFFLED_SPLITS = 10
"""torch-fidelity's default `isc_splits`."""
BLOCK = 5000
"""Images of a split in guided-diffusion's evaluator."""


@dataclass(frozen=True)
class Convention:
    """A named way to compute the metrics; the empty name is this project's own convention.

    Attributes:
        name: a value of `score.protocol`.
        splits: how the Inception Score divides images: 'hash' of their key, 'shuffled' in equal parts, or consecutive
            'blocks'.
        kernel: compute KID.
        every: precision and recall must use the features of every image.
    """

    name: str
    splits: str = "hash"
    kernel: bool = True
    every: bool = False

    def split_count(self, total: int, configured: int) -> int:
        """Splits of the Inception Score over `total` images; the settings ask for `configured` (0: no score)."""
        if self.splits == "shuffled":
            return SHUFFLED_SPLITS
        return -(-total // BLOCK) if self.splits == "blocks" else configured

    def split_numbers(self, keys: Sequence[str], first: int, total: int, count: int) -> NDArray[np.int64]:
        """The split of each image [n]; the images are numbers `first` and following of `total` in table order."""
        if self.splits == "hash":
            return np.array([split_of(key, count) for key in keys], dtype=np.int64)
        rows = np.arange(first, first + len(keys))
        if self.splits == "blocks":
            return np.asarray(rows // BLOCK, np.int64)
        shuffled = np.empty(total, np.int64)  # position of each row after the shuffle
        shuffled[np.random.RandomState(SEED).permutation(total)] = np.arange(total)
        ends = [(index + 1) * total // count for index in range(count)]
        return np.asarray(np.searchsorted(ends, shuffled[rows], side="right"), np.int64)

    def split_description(self, count: int) -> str:
        """The assignment of images to splits, in words."""
        if self.splits == "shuffled":
            return f"{count} splits of the images shuffled by numpy's RandomState({SEED})"
        if self.splits == "blocks":
            return f"{count} splits: consecutive blocks of {BLOCK} images"
        return f"{count} splits, sha256('score split', key) mod {count}"


CONVENTIONS = {
    "": Convention(""),
    "torch-fidelity": Convention("torch-fidelity", "shuffled", every=True),
    "guided-diffusion": Convention("guided-diffusion", "blocks", kernel=False, every=True),
}
"""This project's own; torch-fidelity's metric_*.py with its defaults; guided-diffusion's evaluations/evaluator.py.
In float64 throughout: guided-diffusion's distances between features are float16 where these are finite, which moves the
last digits of its precision and recall."""


def in_table_order(sample: FeatureSample, keys: Sequence[str]) -> NDArray[Any]:
    """The features of a sample [n, D] in the order of their table, whose keys are given.

    Random subsets of a fixed seed are then those that other evaluators draw from the same images. Raises `DataError`
    where a feature belongs to none of the keys.
    """
    rows = {rank_of(key): row for row, key in enumerate(keys)}
    try:
        order = np.argsort([rows[int(rank)] for rank in sample.hashes])
    except KeyError:
        raise DataError("a sample of features is not of these images: run statistics again with --force") from None
    return sample.features[order]
