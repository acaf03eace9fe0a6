"""Fréchet distance against torch-fidelity, scipy's matrix root and closed forms."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest
from scipy import linalg

from vim_core.errors import DataError
from vim_core.metrics.frechet import frechet_distance
from vim_core.metrics.moments import Gaussian, Moments, checked_gaussian


def features(count: int, dim: int, seed: int, rank: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(rank or dim, dim))
    return rng.normal(size=(count, rank or dim)) @ mixing + rng.normal(size=dim)


def fidelity(a: np.ndarray, b: np.ndarray) -> float:
    metric = pytest.importorskip("torch_fidelity.metric_fid")
    stats = [{"mu": x.mean(axis=0), "sigma": np.cov(x, rowvar=False)} for x in (a, b)]
    return float(metric.fid_statistics_to_metric(stats[0], stats[1], False)["frechet_inception_distance"])


def scipy_distance(a: np.ndarray, b: np.ndarray) -> float:
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(cov_a @ cov_b).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root))


def ours(a: np.ndarray, b: np.ndarray) -> float:
    return frechet_distance(Moments.from_batch(a), Moments.from_batch(b))


@pytest.mark.parametrize(("count", "dim"), [(100, 2), (200, 8), (300, 64)])
@pytest.mark.parametrize("reference", [scipy_distance, fidelity])
def test_equals_scipy_and_torch_fidelity(
    count: int, dim: int, reference: Callable[[np.ndarray, np.ndarray], float]
) -> None:
    a, b = features(count, dim, 0), features(count + 7, dim, 1)
    assert ours(a, b) == pytest.approx(reference(a, b), rel=1e-6)


def test_one_dimension_has_a_closed_form() -> None:
    a, b = features(100, 1, 0), features(50, 1, 1)
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert ours(a, b) == pytest.approx(expected, rel=1e-9)


def nuclear_reference(a: np.ndarray, b: np.ndarray) -> float:
    """tr (A B)^(1/2) is the nuclear norm of Xa Xb^T for centred feature rows: no covariance, no root, any rank."""
    xa, xb = a - a.mean(0), b - b.mean(0)
    cross = np.linalg.norm(xa @ xb.T, "nuc") / np.sqrt((len(a) - 1) * (len(b) - 1))
    squares = (xa**2).sum() / (len(a) - 1) + (xb**2).sum() / (len(b) - 1)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + squares - 2 * cross)


@pytest.mark.parametrize(("count", "dim", "rank"), [(200, 16, 5), (200, 16, 16), (10, 32, 32), (2, 5, 5)])
def test_rank_deficient_covariances_are_exact(count: int, dim: int, rank: int) -> None:
    a, b = features(count, dim, 2, rank), features(count + 1, dim, 3, rank)
    assert ours(a, b) == pytest.approx(nuclear_reference(a, b), rel=1e-6)


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


@pytest.mark.parametrize(("count", "dim", "rank"), [(40, 6, 6), (40, 9, 3), (5, 9, 9), (2, 4, 4)])
def test_equals_the_definition_with_sixty_digits(count: int, dim: int, rank: int) -> None:
    a, b = features(count, dim, 12, rank), features(count + 2, dim, 13, rank)
    assert ours(a, b) == pytest.approx(precise(a, b), rel=1e-7)


@pytest.mark.parametrize(("count", "dim", "rank"), [(400, 64, 20), (40, 64, 64), (130, 128, 128), (20, 200, 200)])
def test_equals_torch_fidelity_without_full_rank(count: int, dim: int, rank: int) -> None:
    a, b = features(count, dim, 14, rank), features(count + 3, dim, 15, rank)
    assert ours(a, b) == pytest.approx(fidelity(a, b), rel=1e-6)


def test_equals_torch_fidelity_on_its_own_statistics_of_single_precision_features() -> None:
    torch = pytest.importorskip("torch")
    metric = pytest.importorskip("torch_fidelity.metric_fid")
    a, b = (features(300, 32, seed).astype(np.float32) for seed in (16, 17))
    stats = [metric.fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
    theirs = metric.fid_statistics_to_metric(*stats, False)["frechet_inception_distance"]
    assert ours(a, b) == pytest.approx(theirs, rel=1e-6)


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


def test_matrices_that_are_no_covariances_are_refused() -> None:
    mean = np.zeros(2)
    good = np.array([[1.0, 0.5], [0.5, 1.0]])
    assert checked_gaussian(mean.astype(np.float32), good.astype(np.float32), None, "x").covariance.dtype == np.float64
    for matrix, message in (
        (np.array([[1.0, 0.5], [0.0, 1.0]]), "not symmetric"),
        (np.array([[1.0, 0.0], [0.0, -1.0]]), "a variance is negative"),
        (np.eye(3), "shapes"),
        (np.array([[np.nan, 0.0], [0.0, 1.0]]), "not finite"),
        (good.astype(int), "expected floats"),
    ):
        with pytest.raises(DataError, match=message):
            checked_gaussian(mean, matrix, None, "x")
    with pytest.raises(DataError, match="statistics of 1 images"):
        checked_gaussian(mean, good, 1, "x")
    indefinite = np.array([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(DataError, match="eigenvalue -1"):
        frechet_distance(checked_gaussian(mean, indefinite, 9, "x"), checked_gaussian(mean, good, 9, "x"))


def test_closed_forms() -> None:
    a = features(400, 6, 4)
    assert ours(a, a) == pytest.approx(0, abs=1e-9 * np.trace(np.cov(a, rowvar=False)))
    assert ours(a, a + 2.0) == pytest.approx(6 * 4.0)
    centre = a.mean(0)
    scaled = centre + 3.0 * (a - centre)
    assert ours(a, scaled) == pytest.approx(4 * np.trace(np.cov(a, rowvar=False)))


def test_symmetric_and_never_negative() -> None:
    a, b = features(50, 20, 5), features(60, 20, 6)
    assert ours(a, b) == pytest.approx(ours(b, a), rel=1e-9)
    assert ours(a * 1e-9, a * 1e-9) >= 0


def test_few_images_warn_and_one_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ours(features(8, 8, 7), features(100, 8, 8))
    assert "8 images in 8 dimensions" in caplog.text
    with pytest.raises(DataError, match="at least 2"):
        ours(features(1, 8, 7), features(100, 8, 8))


def test_two_networks_are_refused() -> None:
    with pytest.raises(DataError, match="dimension 3 and 4"):
        frechet_distance(Moments.from_batch(features(9, 3, 0)), Moments.from_batch(features(9, 4, 0)))


@pytest.mark.parametrize("count", [200, 20])
def test_the_quick_way_for_intervals_is_near_and_silent(count: int, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(4)
    a, b = (Moments.from_batch(rng.normal(size=(count, 30)) * scale) for scale in (1.0, 1.4))
    found = frechet_distance(a, b, quick=True)
    assert caplog.text == ""
    assert found == pytest.approx(frechet_distance(a, b), rel=1e-4)
