"""Moments against numpy's; Fréchet distance against torch-fidelity, sixty digits and closed forms."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from vim_core.errors import DataError
from vim_core.metrics import npz
from vim_core.metrics.feature_statistics import merge_all
from vim_core.metrics.frechet import Gaussian, Moments, frechet_distance


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
    expected = Moments.from_batch(tensor.detach().double().numpy())
    assert Moments.from_batch(tensor).to_bytes() == expected.to_bytes()


def test_bytes_round_trip_and_repeat() -> None:
    moments = Moments.from_batch(np.random.default_rng(2).normal(size=(9, 5)))
    data = moments.to_bytes()
    back = Moments.from_bytes(data)
    np.testing.assert_array_equal(back.m2, moments.m2)
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


def features(count: int, dim: int, seed: int, rank: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(rank or dim, dim))
    return rng.normal(size=(count, rank or dim)) @ mixing + rng.normal(size=dim)


def fidelity(a: np.ndarray, b: np.ndarray) -> float:
    metric = pytest.importorskip("torch_fidelity.metric_fid")
    stats = [{"mu": x.mean(axis=0), "sigma": np.cov(x, rowvar=False)} for x in (a, b)]
    return float(metric.fid_statistics_to_metric(stats[0], stats[1], False)["frechet_inception_distance"])


def ours(a: np.ndarray, b: np.ndarray) -> float:
    return frechet_distance(Moments.from_batch(a), Moments.from_batch(b))


def precise(a: np.ndarray, b: np.ndarray) -> float:
    """The definition with 60 digits: eigenvalues of the product of the covariances, nothing clipped or rounded."""
    mp = pytest.importorskip("mpmath")
    with mp.workdps(60):
        means, covariances = [], []
        for x in (a, b):
            rows = mp.matrix(x.tolist())
            mean = mp.matrix([mp.fsum(rows[i, j] for i in range(rows.rows)) / rows.rows for j in range(rows.cols)])
            centred = mp.matrix(rows.rows, rows.cols)
            for i in range(rows.rows):
                for j in range(rows.cols):
                    centred[i, j] = rows[i, j] - mean[j]
            means.append(mean)
            covariances.append(centred.T * centred / (rows.rows - 1))
        values = mp.eig(covariances[0] * covariances[1], left=False, right=False)
        cross = mp.fsum(mp.sqrt(mp.re(value)) for value in values if mp.re(value) > mp.mpf(10) ** -40)
        squares = mp.fsum((means[0][j] - means[1][j]) ** 2 for j in range(a.shape[1]))
        traces = mp.fsum(c[j, j] for c in covariances for j in range(a.shape[1]))
        return float(squares + traces - 2 * cross)


@pytest.mark.parametrize(("count", "dim", "rank"), [(40, 2, 2), (40, 6, 6), (40, 9, 3), (5, 9, 9), (2, 4, 4)])
def test_equals_the_definition_with_sixty_digits(count: int, dim: int, rank: int) -> None:
    a, b = features(count, dim, 12, rank), features(count + 2, dim, 13, rank)
    assert ours(a, b) == pytest.approx(precise(a, b), rel=1e-7)


@pytest.mark.parametrize(("count", "dim", "rank"), [(300, 64, 64), (400, 64, 20), (130, 128, 128), (20, 200, 200)])
def test_equals_torch_fidelity_of_any_rank(count: int, dim: int, rank: int) -> None:
    a, b = features(count, dim, 14, rank), features(count + 3, dim, 15, rank)
    assert ours(a, b) == pytest.approx(fidelity(a, b), rel=1e-6)


def test_published_statistics_compare_like_moments() -> None:
    a, b = features(100, 8, 18), features(90, 8, 19)
    moments = Moments.from_batch(a)
    published = Gaussian(moments.mean, moments.covariance)
    assert frechet_distance(published, Moments.from_batch(b)) == ours(a, b)
    assert frechet_distance(Moments.from_batch(b), published) == pytest.approx(ours(a, b), rel=1e-9)


def test_unknown_counts_warn_where_the_rank_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    few = Moments.from_batch(features(5, 8, 20))
    with caplog.at_level(logging.WARNING):
        frechet_distance(Gaussian(few.mean, few.covariance), Moments.from_batch(features(100, 8, 21)))
    assert "unknown count have rank 4 in 8 dimensions" in caplog.text
    caplog.clear()
    many = Moments.from_batch(features(100, 8, 22))
    with caplog.at_level(logging.WARNING):
        frechet_distance(Gaussian(many.mean, many.covariance), many)
    assert caplog.text == ""


def test_a_matrix_that_is_no_covariance_is_refused() -> None:
    mean, good, indefinite = np.zeros(2), np.array([[1.0, 0.5], [0.5, 1.0]]), np.array([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(DataError, match="eigenvalue -1"):
        frechet_distance(Gaussian(mean, indefinite, 9), Gaussian(mean, good, 9))


def test_symmetric_and_never_negative() -> None:
    a, b = features(50, 20, 5), features(60, 20, 6)
    assert ours(a, b) == pytest.approx(ours(b, a), rel=1e-9)
    assert ours(a, a) == pytest.approx(0, abs=1e-9 * np.trace(np.cov(a, rowvar=False)))
    assert ours(a * 1e-9, a * 1e-9) >= 0


def test_few_images_warn_and_one_or_two_networks_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ours(features(8, 8, 7), features(100, 8, 8))
    assert "8 images in 8 dimensions" in caplog.text
    with pytest.raises(DataError, match="at least 2"):
        ours(features(1, 8, 7), features(100, 8, 8))
    with pytest.raises(DataError, match="dimension 3 and 4"):
        ours(features(9, 3, 0), features(9, 4, 0))


@pytest.mark.parametrize("count", [200, 20])
def test_the_quick_way_for_intervals_is_near_and_silent(count: int, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(4)
    a, b = (Moments.from_batch(rng.normal(size=(count, 30)) * scale) for scale in (1.0, 1.4))
    found = frechet_distance(a, b, quick=True)
    assert caplog.text == ""
    assert found == pytest.approx(frechet_distance(a, b), rel=1e-4)
