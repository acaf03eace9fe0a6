"""The unigram code: what codes cost without any model of their order, the floor a prior must beat."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 24
"""Codes counted at once: numpy widens them to 64 bits, and a table may hold billions."""


def unigram_bits(train: NDArray[Any], test: NDArray[Any], vocabulary: int) -> float:
    """Cross-entropy in bits per token of codes `test` [N, T] under frequencies fitted on `train` [M, T].

    Add-one smoothing, so that a code that training never saw has a finite cost.
    """
    codes, counts = train.reshape(-1), np.ones(vocabulary)
    for start in range(0, codes.size, CHUNK):
        counts += np.bincount(codes[start : start + CHUNK], minlength=vocabulary)
    cost = -np.log2(counts / counts.sum())
    return float(cost[test.reshape(-1).astype(np.int64)].mean())
