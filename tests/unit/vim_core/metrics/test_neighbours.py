"""The search for neighbours against scikit-learn's; precision, recall, density and coverage against other code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from vim_core.errors import DataError
from vim_core.metrics.neighbours import (
    density_coverage,
    manifold_membership,
    merge_nearest,
    nearest,
)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 4), st.integers(1, 7), st.integers(1, 9))
def test_equals_scikit_learn_whatever_the_tiles(queries: int, vectors: int, count: int, block: int, wide: int) -> None:
    rng = np.random.default_rng(queries * 100 + vectors)
    asked, known = rng.normal(size=(queries, 5)) + 50, (rng.normal(size=(vectors, 5)) + 50).astype(np.float32)
    distances, rows = nearest(asked, known, count, block, wide)
    count = min(count, vectors)
    expected, places = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(known).kneighbors(asked)
    np.testing.assert_allclose(distances, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(rows, places)


def test_a_copy_has_distance_zero_far_from_the_origin() -> None:
    known = np.random.default_rng(0).normal(size=(50, 8)) * 1e-3 + 1e5
    distances, rows = nearest(known[[7, 31]], known, 1, columns=16)
    assert distances.tolist() == [[0.0], [0.0]]
    assert rows.tolist() == [[7], [31]]


def test_answers_of_parts_make_the_answer_of_the_whole() -> None:
    rng = np.random.default_rng(1)
    asked, known = rng.normal(size=(9, 3)), rng.normal(size=(20, 3))
    left, right = nearest(asked, known[:11], 3), nearest(asked, known[11:], 3)
    whole = nearest(asked, known, 3)
    merged = merge_nearest(left, (right[0], right[1] + 11), 3)
    np.testing.assert_array_equal(merged[1], whole[1])
    np.testing.assert_allclose(merged[0], whole[0], rtol=1e-12)


def precision_recall(real: np.ndarray, generated: np.ndarray, neighbours: int = 3) -> tuple[float, float]:
    precise, recalled = manifold_membership(real, generated, neighbours)
    return float(precise.mean()), float(recalled.mean())


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_equals_torch_fidelity_over_two_blocks(shift: float) -> None:
    metric = pytest.importorskip("torch_fidelity.metric_prc")
    rng = np.random.default_rng(0)
    real, made = rng.normal(size=(1200, 6)), rng.normal(size=(1050, 6)) * 0.8 + shift
    expected = metric.calculate_precision_recall_full(torch.from_numpy(made), torch.from_numpy(real), 3)
    assert precision_recall(real, made) == pytest.approx(expected, rel=1e-6)


def test_large_offsets_cost_no_digits() -> None:
    rng = np.random.default_rng(2)
    real, made = rng.normal(size=(60, 3)), rng.normal(size=(50, 3))
    assert precision_recall(real + 1e6, made + 1e6) == precision_recall(real, made)


def test_precision_of_too_few_is_refused() -> None:
    with pytest.raises(DataError, match="more than 3 images a side: 9 and 3"):
        precision_recall(np.zeros((9, 2)), np.zeros((3, 2)))


def guided_diffusion(reference: np.ndarray, samples: np.ndarray) -> tuple[float, float]:
    """Its evaluator's rule by numpy alone: radii are the fourth smallest distances in a set, each own zero included."""

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.maximum(((a[:, None] - b[None]) ** 2).sum(-1), 0)
        return found

    reach = [np.partition(distances(side, side), range(4), axis=1)[:, 3] for side in (reference, samples)]
    across = distances(reference, samples)
    return float((across <= reach[0][:, None]).any(axis=0).mean()), float((across <= reach[1]).any(axis=1).mean())


@pytest.mark.parametrize(("count", "shift"), [(100, 0.0), (40, 0.8)])
def test_equals_guided_diffusions_rule_with_a_smaller_reference(count: int, shift: float) -> None:
    rng = np.random.default_rng(7)
    reference, samples = rng.normal(size=(count, 5)), rng.normal(size=(130, 5)) * 0.9 + shift
    assert precision_recall(reference, samples) == guided_diffusion(reference, samples)


def density_by_the_equations(real: np.ndarray, made: np.ndarray, k: int) -> tuple[float, float]:
    """Equations 3 and 4 of Naeem et al. 2020, pair by pair."""
    reach = [sorted(float(np.linalg.norm(x - z)) for z in real)[k] for x in real]
    inside = [[bool(np.linalg.norm(y - x) < r) for x, r in zip(real, reach, strict=True)] for y in made]
    density = sum(map(sum, inside)) / (k * len(made))
    return density, float(np.mean([any(row[i] for row in inside) for i in range(len(real))]))


@settings(max_examples=20, deadline=None)
@given(st.integers(6, 20), st.integers(1, 20), st.integers(1, 5), st.floats(0, 2))
def test_equals_the_equations(n: int, m: int, k: int, shift: float) -> None:
    rng = np.random.default_rng(n * 31 + m)
    real, made = rng.normal(size=(n, 3)), rng.normal(size=(m, 3)) + shift
    density, covered = density_coverage(real, made, k)
    assert (density.shape, covered.shape) == ((m,), (n,))
    assert (density.mean(), covered.mean()) == pytest.approx(density_by_the_equations(real, made, k))


def test_density_of_too_few_is_refused() -> None:
    with pytest.raises(DataError, match="more than 5 real images and a sample: 5, 9"):
        density_coverage(np.zeros((5, 2)), np.zeros((9, 2)))
