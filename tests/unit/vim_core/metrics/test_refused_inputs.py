"""Metrics name what does not fit together; numpy would broadcast it, or count it wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from vim_core.errors import DataError
from vim_core.metrics import codebook, intervals, kernel_distance, neighbours, reconstruction, tradeoff
from vim_core.metrics.feature_statistics import FeatureSample
from vim_core.metrics.frechet import Moments
from vim_core.metrics.inception_score import ScoreSums

X, WIDER = np.ones((30, 4), np.float32), np.ones((30, 5), np.float32)
HASHES = np.arange(30, dtype=np.uint64)
IMAGES, SMALLER = torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 8, 8)
SHAPES = r"\(1, 3, 16, 16\) and \(1, 3, 8, 8\)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: codebook.usages(np.array([[0, 16]]), 16, 1), "from 0 to 16 outside a vocabulary of 16"),
        (lambda: codebook.usages(np.array([[-1, 3]]), 16, 1), "from -1 to 3 outside a vocabulary of 16"),
        (lambda: codebook.histogram(np.array([1, 2]), 16), "images, tokens"),
        (lambda: Moments.from_batch(X[:11]).without(Moments.from_batch(X)), "30 vectors of dimension 4"),
        (lambda: ScoreSums.from_batch(X, np.full(30, 2), 2), "outside 2 splits"),
        (lambda: FeatureSample.from_batch(X, HASHES[:3], 8), "one per row"),
        (lambda: FeatureSample.from_batch(X * np.nan, HASHES, 8), "not finite"),
        (lambda: kernel_distance.kernel_distance(X, WIDER, 1, 5), "two networks"),
        (lambda: kernel_distance.leave_one_group_out(X[:23], X[:17], 9), "9 groups of 23 and 17"),
        (lambda: neighbours.manifold_membership(X, WIDER), "two networks"),
        (lambda: neighbours.density_coverage(X, WIDER), "two networks"),
        (lambda: intervals.bootstrap_interval([]), "one value per image"),
        (lambda: intervals.wilson_interval(3, 2), "3 of 2 is not a share"),
        (lambda: tradeoff.locate_minimum([1.0, 2.0], [3.0], np.ones((1, 4)), 20, 0.9), "2 settings, 1 figures"),
        (lambda: reconstruction.psnr(IMAGES, SMALLER), SHAPES),
        (lambda: reconstruction.ssim(IMAGES, SMALLER), SHAPES),
    ],
)
def test_inputs_that_do_not_fit_are_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises((DataError, ValueError), match=message):
        call()
