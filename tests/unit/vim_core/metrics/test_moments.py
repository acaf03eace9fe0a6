"""Moments: any split, order and merge tree gives the moments of the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vim_core.errors import DataError
from vim_core.metrics import npz
from vim_core.metrics.feature_statistics import merge_all
from vim_core.metrics.moments import Moments


def assert_close(a: Moments, b: Moments, tolerance: float = 1e-10) -> None:
    assert a.count == b.count
    np.testing.assert_allclose(a.mean, b.mean, rtol=tolerance, atol=tolerance * max(1.0, np.abs(b.mean).max()))
    np.testing.assert_allclose(a.m2, b.m2, rtol=tolerance, atol=tolerance * max(1e-30, np.abs(b.m2).max()))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_tree_of_parts_equals_the_whole(data: st.DataObject) -> None:
    count, dim = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    offset = data.draw(st.sampled_from([0.0, 1.0, 1e3]))
    features = rng.normal(size=(count, dim)) * rng.uniform(0.1, 10, size=dim) + offset
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=6)))
    parts = [Moments.from_batch(part) for part in np.split(rng.permutation(features), cuts)]
    while len(parts) > 1:
        i = data.draw(st.integers(0, len(parts) - 1))
        first = parts.pop(i)
        j = data.draw(st.integers(0, len(parts) - 1))
        parts[j] = first.merge(parts[j])
    assert_close(parts[0], Moments.from_batch(features))


def test_mean_and_covariance_are_numpys() -> None:
    features = np.random.default_rng(0).normal(size=(50, 7)) + 3
    moments = merge_all(Moments.from_batch(part) for part in np.array_split(features, 5))
    np.testing.assert_allclose(moments.mean, features.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(features, rowvar=False), rtol=1e-10, atol=1e-14)


def test_a_large_offset_costs_no_digits() -> None:
    """The textbook sum of squares would keep no digit of the variance here."""
    features = np.random.default_rng(1).normal(size=(1000, 2))
    shifted = merge_all(Moments.from_batch(part) for part in np.array_split(features + 1e8, 10))
    np.testing.assert_allclose(shifted.covariance, np.cov(features, rowvar=False), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tensors_count_as_their_float64_values(dtype: torch.dtype) -> None:
    tensor = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    assert_close(Moments.from_batch(tensor), Moments.from_batch(tensor.detach().double().numpy()), 0)


def test_nothing_is_the_neutral_element() -> None:
    moments = Moments.from_batch(np.arange(12.0).reshape(4, 3))
    for merged in (moments.merge(Moments.empty(3)), Moments.empty(3).merge(moments)):
        assert_close(merged, moments, 0)
    assert Moments.from_batch(np.zeros((0, 3))).count == 0


def test_bytes_round_trip_and_repeat() -> None:
    moments = Moments.from_batch(np.random.default_rng(2).normal(size=(9, 5)))
    data = moments.to_bytes()
    back = Moments.from_bytes(data)
    assert_close(back, moments, 0)
    assert back.to_bytes() == data


@pytest.mark.parametrize("data", [b"", b"text", Moments.empty(3).to_bytes()[:-30]])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="not a moments file"):
        Moments.from_bytes(data)


def test_pickles_are_not_loaded() -> None:
    data = npz.pack(count=1, mean=np.array([print], dtype=object), m2=np.zeros((1, 1)))
    with pytest.raises(DataError, match="not a moments file"):
        Moments.from_bytes(data)


def test_bad_features_are_named() -> None:
    with pytest.raises(DataError, match=r"shape \(3,\)"):
        Moments.from_batch(np.zeros(3))
    with pytest.raises(DataError, match="2 images are not finite, first at row 1"):
        Moments.from_batch(np.array([[0.0], [np.nan], [np.inf]]))
    with pytest.raises(DataError, match="dimension 2 and 3"):
        Moments.empty(2).merge(Moments.empty(3))
    with pytest.raises(DataError, match="at least 2 vectors, got 1"):
        _ = Moments.from_batch(np.zeros((1, 2))).covariance
    with pytest.raises(DataError, match="no images"):
        merge_all([])


def test_taking_a_part_away_undoes_its_merge() -> None:
    rng = np.random.default_rng(9)
    rest, part = (Moments.from_batch(rng.normal(size=(count, 4)) + shift) for count, shift in ((30, 5), (11, 6)))
    found = rest.merge(part).without(part)
    assert found.count == 30
    np.testing.assert_allclose(found.mean, rest.mean, rtol=1e-12)
    np.testing.assert_allclose(found.m2, rest.m2, rtol=1e-9, atol=1e-9)
    with pytest.raises(DataError, match="30 vectors of dimension 4 are no part of 11 of 4"):
        part.without(rest)
