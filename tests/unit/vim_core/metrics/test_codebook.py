"""Codebook usage against hand counts, perplexity against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vim_core.errors import DataError
from vim_core.metrics.codebook import histogram, perplexity, spread, usage
from vim_core.metrics.protocol import Protocol


def test_usage_counts_distinct_codes_per_full_batch() -> None:
    codes = np.array([[0, 1], [1, 1], [2, 3], [4, 5], [6, 7]], dtype=np.uint16)
    # Batches {0, 1} and {2, 3, 4, 5}; the fifth image fills no batch.
    assert usage(codes, vocabulary=8, batch=2) == pytest.approx((2 / 8 + 4 / 8) / 2)
    assert usage(codes, vocabulary=8, batch=5) == 1.0


def test_fewer_images_than_a_batch_are_refused() -> None:
    with pytest.raises(DataError, match="256 images and there are 255"):
        usage(np.zeros((255, 4), dtype=np.uint16), 16)


@pytest.mark.parametrize("codes", [np.array([[0, 16]]), np.array([[-1, 0]])])
def test_codes_outside_the_vocabulary_are_refused(codes: np.ndarray) -> None:
    with pytest.raises(DataError, match="outside a vocabulary of 16"):
        usage(codes, 16, batch=1)
    with pytest.raises(DataError, match="outside a vocabulary of 16"):
        histogram(codes, 16)


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


def test_protocol_keeps_only_what_applies() -> None:
    record = Protocol(figure="psnr_db", compares="a with b", split="test", count=0).record()
    assert record == {"figure": "psnr_db", "compares": "a with b", "split": "test", "count": 0}


@pytest.mark.parametrize("filled", [1, 2, 5])
def test_spread_counts_the_dimensions_that_vary_alike(filled: int) -> None:
    """Each axis once up and once down: a covariance that is a multiple of the identity on `filled` dimensions."""
    corners = np.zeros((2 * filled, 7))
    corners[np.arange(filled), np.arange(filled)] = 3.0
    corners[filled + np.arange(filled), np.arange(filled)] = -3.0
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(7, 7)))
    assert spread(corners @ turn + 100.0) == pytest.approx(filled, rel=1e-9)


def test_spread_of_unequal_axes_is_their_entropy() -> None:
    latents = np.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert spread(latents) == pytest.approx(np.exp(-(0.8 * np.log(0.8) + 0.2 * np.log(0.2))))


def test_latents_that_do_not_vary_have_no_spread() -> None:
    with pytest.raises(DataError, match="3 latents that are all alike"):
        spread(np.ones((3, 4)))
