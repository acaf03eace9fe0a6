"""Inception Score sums: torch-fidelity's score of each split, closed forms, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vim_core.errors import DataError
from vim_core.metrics.inception_score import ScoreSums


def logits(count: int, classes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, classes)) * 4 + 100


def test_equals_torch_fidelity_split_by_split() -> None:
    metric = pytest.importorskip("torch_fidelity.metric_isc")
    values = logits(90, 13).astype(np.float32)
    split = np.random.default_rng(1).integers(0, 3, size=90)
    scores = [
        metric.isc_features_to_metric(torch.from_numpy(values[split == s]), splits=1, shuffle=False)[
            "inception_score_mean"
        ]
        for s in range(3)
    ]
    mean, std = ScoreSums.from_batch(values, split, 3).score()
    assert mean == pytest.approx(np.mean(scores), rel=1e-12)
    assert std == pytest.approx(np.std(scores), rel=1e-9)


def test_bytes_round_trip_and_repeat() -> None:
    sums = ScoreSums.from_batch(logits(9, 4), np.arange(9) % 2, 2)
    data = sums.to_bytes()
    back = ScoreSums.from_bytes(data)
    assert back.score() == sums.score()
    assert back.to_bytes() == data
    with pytest.raises(DataError, match="not a file of Inception Score sums"):
        ScoreSums.from_bytes(data[:-40])


def test_nothing_is_neutral_and_bad_input_is_named() -> None:
    sums = ScoreSums.from_batch(logits(9, 4), np.zeros(9, np.int64), 1)
    assert sums.merge(ScoreSums.empty(1, 4)).score() == sums.score()
    assert ScoreSums.from_batch(np.zeros((0, 4)), np.zeros(0, np.int64), 1).count == 0
    with pytest.raises(DataError, match="do not merge"):
        sums.merge(ScoreSums.empty(1, 5))
    with pytest.raises(DataError, match=r"split 1 of 2 has no image.*statistics\.score_splits"):
        ScoreSums.from_batch(logits(3, 4), np.zeros(3, np.int64), 2).score()
    with pytest.raises(DataError, match="one per row"):
        ScoreSums.from_batch(logits(3, 4), np.zeros(2, np.int64), 2)
    with pytest.raises(DataError, match="not finite"):
        ScoreSums.from_batch(np.full((2, 2), np.nan), np.zeros(2, np.int64), 1)
