"""The rules of others by name: what torch-fidelity and guided-diffusion's evaluator do with features.

Both resize as TensorFlow 1 does, straight to 299 pixels without antialias, divide covariances by N - 1, leave the last
bias out of the Inception Score's logits, and take k = 3 for precision and recall on pool features. They differ in
splits, in which figures they have, and in what samples are compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vim_core.errors import DataError
from vim_core.metrics.precision_recall import FeatureSample
from vim_core.metrics.sums import rank_of, split_of

SEED = 2020
BLOCK = 5000

Splits = NDArray[np.int64]


@dataclass(frozen=True)
class Convention:
    """Rules of one name; '' are this project's own.

    `splits` is how the Inception Score divides images: by 'hash' of their key, 'shuffled' in equal parts, or in
    consecutive 'blocks'. `kernel` says whether KID is among the figures, `every` whether precision and recall must look
    at every image. `told` is the rest in words, for protocol records.
    """

    name: str
    splits: str = "hash"
    kernel: bool = True
    every: bool = False
    told: str = ""

    def split_count(self, total: int, asked: int) -> int:
        """Splits of the Inception Score over `total` images where the settings ask for `asked` (0: no score)."""
        if self.splits == "shuffled":
            return 10
        return -(-total // BLOCK) if self.splits == "blocks" else asked

    def split_numbers(self, keys: Sequence[str], first: int, total: int, count: int) -> Splits:
        """The split of each image; they are numbers `first` and following of `total` in the order of their table."""
        places = np.arange(first, first + len(keys))
        if self.splits == "blocks":
            return np.asarray(places // BLOCK, np.int64)
        if self.splits == "hash":
            return np.array([split_of(key, count) for key in keys], dtype=np.int64)
        place_of = np.empty(total, np.int64)
        place_of[np.random.RandomState(SEED).permutation(total)] = np.arange(total)
        ends = [(index + 1) * total // count for index in range(count)]
        return np.asarray(np.searchsorted(ends, place_of[places], side="right"), np.int64)

    def split_rule(self, count: int) -> str:
        """How images come to splits, in words."""
        if self.splits == "shuffled":
            return f"{count} splits of the images shuffled by numpy's RandomState({SEED})"
        if self.splits == "blocks":
            return f"{count} splits: consecutive blocks of {BLOCK} images"
        return f"{count} splits, sha256('score split', key) mod {count}"


OWN = Convention("")
CONVENTIONS = {
    "torch-fidelity": Convention(
        "torch-fidelity", "shuffled", every=True, told="N - 1 in covariances; KID of 100 subsets of 1000 images"
    ),
    "guided-diffusion": Convention(
        "guided-diffusion", "blocks", kernel=False, every=True,
        told="N - 1 in covariances; statistics of the reference batch's file where it has any",
    ),
}  # fmt: skip
"""torch-fidelity's metric_*.py with its defaults; guided-diffusion's evaluations/evaluator.py. In float64 throughout:
guided-diffusion's distances between features are float16 where these are finite, which moves the last digits of its
precision and recall."""


def convention(name: str) -> Convention:
    """The rules of a name, '' for this project's. Raises `KeyError` for another, which the settings refuse before."""
    return CONVENTIONS[name] if name else OWN


def in_order(sample: FeatureSample, keys: Sequence[str]) -> NDArray[Any]:
    """The features of a sample [n, D] in the order of their table, whose keys these are.

    Seeded subsets are then those that others draw from the same images. Raises `DataError` for keys of other images.
    """
    places = {rank_of(key): place for place, key in enumerate(keys)}
    try:
        order = np.argsort([places[int(rank)] for rank in sample.hashes])
    except KeyError:
        raise DataError("a sample of features is not of these images: run statistics again with --force") from None
    return sample.features[order]
