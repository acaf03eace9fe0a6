"""The unigram code in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vim_core.metrics.unigram import unigram_bits


def test_cost_by_hand_with_one_added_to_every_count() -> None:
    train, test = np.array([[0, 0], [0, 1]], np.uint16), np.array([[0, 1, 2]], np.uint16)
    # Counts 3, 1, 0 become 4, 2, 1 of 7.
    expected = -(math.log2(4 / 7) + math.log2(2 / 7) + math.log2(1 / 7)) / 3
    assert unigram_bits(train, test, 3) == pytest.approx(expected)


def test_even_codes_cost_the_log_of_the_vocabulary() -> None:
    codes = np.arange(64, dtype=np.uint16).reshape(4, 16)
    assert unigram_bits(codes, codes, 64) == pytest.approx(6.0)


def test_many_draws_cost_their_entropy() -> None:
    p = np.array([0.5, 0.25, 0.125, 0.125])
    train, test = np.random.default_rng(0).choice(4, size=(2, 20_000, 4), p=p)
    assert unigram_bits(train, test, 4) == pytest.approx(1.75, abs=0.02)
