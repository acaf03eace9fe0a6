"""Conventions of other evaluators against their own code or a transcription of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vim_core.errors import DataError
from vim_core.metrics.conventions import CONVENTIONS, in_table_order
from vim_core.metrics.feature_statistics import FeatureSample, rank_of
from vim_core.metrics.inception_score import ScoreSums


def score(name: str, logits: np.ndarray, batch: int) -> tuple[float, float]:
    """Summed batch by batch, as shards are."""
    rules, total = CONVENTIONS[name], len(logits)
    count = rules.split_count(total, 0)
    sums = ScoreSums.empty(count, logits.shape[1])
    for first in range(0, total, batch):
        part = logits[first : first + batch]
        numbers = rules.split_numbers([""] * len(part), first, total, count)
        sums = sums.merge(ScoreSums.from_batch(part, numbers, count))
    return sums.score()


@pytest.mark.parametrize("total", [100, 137])
def test_torch_fidelitys_inception_score(total: int) -> None:
    metric = pytest.importorskip("torch_fidelity.metric_isc")
    logits = np.random.default_rng(0).normal(size=(total, 7)) * 3
    expected = metric.isc_features_to_metric(torch.from_numpy(logits))
    mean, std = score("torch-fidelity", logits, 17)
    assert mean == pytest.approx(expected["inception_score_mean"], rel=1e-10)
    assert std == pytest.approx(expected["inception_score_std"], rel=1e-8)


def test_guided_diffusions_inception_score() -> None:
    """Its evaluator: consecutive blocks of 5,000, the last may be smaller, and the mean of their scores."""
    logits = np.random.default_rng(1).normal(size=(12_001, 3))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = []
    for start in (0, 5000, 10_000):
        part = p[start : start + 5000]
        expected.append(np.exp((part * (np.log(part) - np.log(part.mean(axis=0)))).sum(axis=1).mean()))
    assert score("guided-diffusion", logits, 777)[0] == pytest.approx(np.mean(expected), rel=1e-10)


def test_own_splits_are_by_key() -> None:
    own = CONVENTIONS[""]
    assert own.split_count(100, 4) == 4
    numbers = own.split_numbers([str(i) for i in range(400)], 0, 400, 4)
    assert np.bincount(numbers, minlength=4).min() > 60
    moved = own.split_numbers([str(i) for i in range(10, 400)], 3, 999, 4)
    np.testing.assert_array_equal(numbers[10:], moved)


def test_features_in_the_order_of_their_table() -> None:
    keys = [f"k{i}" for i in range(30)]
    features = np.arange(60, dtype=np.float32).reshape(30, 2)
    ranks = np.array([rank_of(key) for key in keys], dtype=np.uint64)
    whole = FeatureSample.from_batch(features, ranks, 100)
    np.testing.assert_array_equal(in_table_order(whole, keys), features)
    few = in_table_order(FeatureSample.from_batch(features, ranks, 9), keys)
    assert sorted(few[:, 0].tolist()) == few[:, 0].tolist()
    with pytest.raises(DataError, match="not of these images"):
        in_table_order(whole, keys[1:])
