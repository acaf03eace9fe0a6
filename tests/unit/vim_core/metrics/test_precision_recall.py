"""Precision, recall, density and coverage against other code and by hand; the feature sample in any merge order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vim_core.errors import DataError
from vim_core.metrics import precision_recall as module
from vim_core.metrics.precision_recall import FeatureSample, density_coverage, manifold_membership


def precision_recall(real: np.ndarray, generated: np.ndarray, neighbours: int = 3) -> tuple[float, float]:
    precise, recalled = manifold_membership(real, generated, neighbours)
    return float(precise.mean()), float(recalled.mean())


@pytest.mark.parametrize("shift", [0.0, 0.7, 2.0])
def test_equals_torch_fidelity(shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = pytest.importorskip("torch_fidelity.metric_prc")
    monkeypatch.setattr(module, "BLOCK", 37)
    rng = np.random.default_rng(0)
    real, made = rng.normal(size=(120, 6)), rng.normal(size=(90, 6)) * 0.8 + shift
    expected = metric.calculate_precision_recall_full(torch.from_numpy(made), torch.from_numpy(real), 3)
    assert precision_recall(real, made) == pytest.approx(expected, rel=1e-6)


def test_mode_collapse_is_precise_and_recalls_little() -> None:
    rng = np.random.default_rng(1)
    real = rng.normal(size=(300, 4))
    precision, recall = precision_recall(real, real[:1] + 1e-3 * rng.normal(size=(100, 4)))
    assert precision == 1.0
    assert recall < 0.05


def test_by_hand_on_a_line() -> None:
    """Real 0 1 2 3 with one neighbour: radius 1 each, so [-1, 4] is real; made 0.5 0.6 has radius 0.1: no real in."""
    real, made = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([[0.5], [0.6], [9.0], [9.5]])
    assert precision_recall(real, made, neighbours=1) == (0.5, 0.0)


def test_large_offsets_cost_no_digits() -> None:
    rng = np.random.default_rng(2)
    real, made = rng.normal(size=(60, 3)), rng.normal(size=(50, 3))
    assert precision_recall(real + 1e6, made + 1e6) == precision_recall(real, made)


def test_what_does_not_compare_is_refused() -> None:
    with pytest.raises(DataError, match="two networks"):
        precision_recall(np.zeros((9, 2)), np.zeros((9, 3)))
    with pytest.raises(DataError, match="more than 3 images a side: 9 and 3"):
        precision_recall(np.zeros((9, 2)), np.zeros((3, 2)))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_tree_of_parts_draws_the_same_sample(data: st.DataObject) -> None:
    count, limit = data.draw(st.integers(0, 40)), data.draw(st.integers(1, 12))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    values = rng.normal(size=(count, 3)).astype(np.float32)
    hashes = rng.permutation(10 * count + 1)[:count].astype(np.uint64) * np.uint64(2**50)
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=6)))
    order = rng.permutation(count)
    parts = [FeatureSample.from_batch(values[rows], hashes[rows], limit) for rows in np.split(order, cuts)]
    while len(parts) > 1:
        first = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        place = data.draw(st.integers(0, len(parts) - 1))
        parts[place] = first.merge(parts[place])
    assert parts[0].to_bytes() == FeatureSample.from_batch(values, hashes, limit).to_bytes()
    assert parts[0].count == min(count, limit)


def test_bytes_round_trip_and_bad_input_is_named() -> None:
    hashes = np.arange(4, dtype=np.uint64)
    sample = FeatureSample.from_batch(torch.ones(4, 2, dtype=torch.bfloat16), hashes, 3)
    data = sample.to_bytes()
    assert FeatureSample.from_bytes(data).to_bytes() == data
    assert sample.merge(FeatureSample.empty(2, 3)).to_bytes() == data
    with pytest.raises(DataError, match="not a sample of features"):
        FeatureSample.from_bytes(b"text")
    with pytest.raises(DataError, match="do not merge"):
        sample.merge(FeatureSample.empty(2, 4))
    with pytest.raises(DataError, match="one per row"):
        FeatureSample.from_batch(np.ones((3, 2)), hashes, 3)
    with pytest.raises(DataError, match="not finite"):
        FeatureSample.from_batch(np.full((4, 2), np.inf), hashes, 3)


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


def test_density_on_a_line_by_hand() -> None:
    """Real 0 1 3 with one neighbour reach 1, 1, 2: 0.5 lies in the balls of 0 and 1, 2 in that of 3, 9 in none."""
    density, covered = density_coverage(np.array([[0.0], [1.0], [3.0]]), np.array([[0.5], [2.5], [9.0]]), 1)
    assert density.tolist() == [2, 1, 0]
    assert covered.tolist() == [True, True, True]


def test_one_distribution_has_density_one_and_a_collapsed_one_covers_little() -> None:
    rng = np.random.default_rng(0)
    real, made = rng.normal(size=(600, 2)), rng.normal(size=(600, 2))
    density, covered = density_coverage(real, made)
    assert density.mean() == pytest.approx(1, abs=0.08)
    # One sample misses a ball with chance 1 - mass, and the expectation over balls of 5 neighbours is 1 - 2^-5.
    assert covered.mean() == pytest.approx(1 - 2**-5, abs=0.03)
    assert density_coverage(real, np.repeat(real[:1], 600, 0))[1].mean() < 0.05


def test_density_of_too_few_is_refused() -> None:
    with pytest.raises(DataError, match="more than 5 real images and a sample: 5, 9"):
        density_coverage(np.zeros((5, 2)), np.zeros((9, 2)))
    with pytest.raises(DataError, match="two networks"):
        density_coverage(np.zeros((9, 2)), np.zeros((9, 3)))
