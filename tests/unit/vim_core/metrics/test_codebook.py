"""Codebook usage by hand counts, perplexity and unigram cost in closed form, the training window against both."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vim_core.errors import DataError
from vim_core.metrics.codebook import CodeUsageWindow, histogram, perplexity, unigram_bits, usages


def test_usage_counts_distinct_codes_per_full_batch() -> None:
    codes = np.array([[0, 1], [1, 1], [2, 3], [4, 5], [6, 7]], dtype=np.uint16)
    # Batches {0, 1} and {2, 3, 4, 5}; the fifth image fills no batch.
    assert usages(codes, vocabulary=8, batch=2) == [2 / 8, 4 / 8]
    assert usages(codes, vocabulary=8, batch=5) == [1.0]


def test_perplexity_closed_forms() -> None:
    assert perplexity(np.array([7, 7, 7, 7, 0])) == pytest.approx(4.0)
    assert perplexity(np.array([0, 9])) == pytest.approx(1.0)
    assert perplexity(np.array([1, 3])) == pytest.approx(2 ** (0.25 * 2 + 0.75 * np.log2(4 / 3)))
    with pytest.raises(DataError, match="no codes"):
        perplexity(np.zeros(3))


@given(st.lists(st.integers(0, 9), min_size=2, max_size=60), st.integers(0, 60))
def test_histograms_of_parts_add_up(values: list[int], cut: int) -> None:
    codes = np.array(values, dtype=np.uint16)[:, None]
    whole = histogram(codes, 10)
    assert (whole == histogram(codes[:cut], 10) + histogram(codes[cut:], 10)).all()
    assert whole.sum() == len(values)
    assert 1 <= perplexity(whole) <= len(set(values)) + 1e-9


def test_cost_by_hand_with_one_added_to_every_count() -> None:
    train, test = np.array([[0, 0], [0, 1]], np.uint16), np.array([[0, 1, 2]], np.uint16)
    # Counts 3, 1, 0 become 4, 2, 1 of 7.
    expected = -(math.log2(4 / 7) + math.log2(2 / 7) + math.log2(1 / 7)) / 3
    assert unigram_bits(train, test, 3) == pytest.approx(expected)


@pytest.mark.parametrize("batch", [256, 100, 64])
def test_a_full_window_is_the_figure_of_its_images(batch: int) -> None:
    size, batches = 50, -(-256 // batch)
    codes = (np.random.default_rng(0).random((batch * (batches + 2), 2)) ** 3 * size).astype(np.int64)
    window = CodeUsageWindow(size, batch, torch.device("cpu"))
    for rows in np.split(codes, batches + 2):
        found = window.add(torch.from_numpy(histogram(rows, size)).float())
    last = codes[-batch * batches :]
    assert float(found["codebook_usage"]) == pytest.approx(usages(last, size, len(last))[0])
    assert float(found["codebook_perplexity"]) == pytest.approx(perplexity(histogram(last, size)), rel=1e-5)


def test_codes_that_fell_out_of_use_leave_the_window() -> None:
    window = CodeUsageWindow(4, 128, torch.device("cpu"))
    window.add(torch.tensor([9.0, 0.0, 0.0, 0.0]))
    assert float(window.add(torch.tensor([0.0, 1.0, 1.0, 0.0]))["codebook_usage"]) == 0.75
    last = window.add(torch.tensor([0.0, 3.0, 3.0, 0.0]))
    assert float(last["codebook_usage"]) == 0.5
    assert float(last["codebook_perplexity"]) == pytest.approx(2.0)


def test_a_skipped_batch_is_shown_and_not_kept() -> None:
    window = CodeUsageWindow(4, 128, torch.device("cpu"))
    window.add(torch.tensor([9.0, 0.0, 0.0, 0.0]))
    skipped = window.add(torch.tensor([0.0, 1.0, 1.0, 1.0]), torch.tensor(1.0))
    assert float(skipped["codebook_usage"]) == 1.0
    kept = window.add(torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.tensor(0.0))
    assert float(kept["codebook_usage"]) == 0.5
