"""The unigram code: what codes cost without any model of their order, the floor a prior must beat."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def unigram_bits(train: NDArray[Any], test: NDArray[Any], vocabulary: int) -> float:
    """Cross-entropy in bits per token of codes `test` [N, T] under frequencies fitted on `train` [M, T].

    Add-one smoothing, so that a code that training never saw has a finite cost.
    """
    counts = np.bincount(train.reshape(-1).astype(np.int64), minlength=vocabulary) + 1.0
    cost = -np.log2(counts / counts.sum())
    return float(cost[test.reshape(-1).astype(np.int64)].mean())
