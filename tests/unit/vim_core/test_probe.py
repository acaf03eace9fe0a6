"""The linear probe against scikit-learn, and what it may look at."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from tests.unit.vim_core.tiny import prior_network
from vim_core.tasks.probe import _fit, features, linear_probe


def clusters(count: int, spread: float, seed: int, dim: int = 5) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(3, dim)) * 3
    labels = rng.integers(0, 3, count)
    x = centres[labels] + rng.normal(size=(count, dim)) * spread
    return torch.from_numpy(x).float(), torch.from_numpy(labels)


def held_out(count: int) -> Tensor:
    return torch.arange(count) % 5 == 0


def test_separable_data_is_separated() -> None:
    train, test = clusters(90, 0.2, 0), clusters(60, 0.2, 1)
    scaled = (train[0] * 1000 + 7, train[1]), (test[0] * 1000 + 7, test[1])
    for a, b in ((train, test), scaled):
        assert linear_probe(a, b, 3, [1e-4, 1e-2], held_out(90), 60, 1000, 0.1, 0).accuracy == 1.0


def test_weights_equal_logistic_regression_with_the_same_penalty() -> None:
    x, y = clusters(120, 3.0, 0)
    x = (x - x.mean(0)) / x.std(0)
    decay = 0.05
    weight, bias = _fit(x, y, 3, [decay], steps=800, batch=1000, lr=0.05, seed=0)
    theirs = LogisticRegression(C=1 / (decay * len(x)), tol=1e-8, max_iter=2000).fit(x.double().numpy(), y.numpy())
    np.testing.assert_allclose(weight.T.numpy(), theirs.coef_, atol=2e-3)
    np.testing.assert_allclose((bias - bias.mean()).numpy(), theirs.intercept_ - theirs.intercept_.mean(), atol=2e-3)


def test_heads_trained_together_equal_heads_trained_alone() -> None:
    x, y = clusters(60, 3.0, 0)
    together, _ = _fit(x, y, 3, [1e-3, 1e-1], 50, 1000, 0.05, 0)
    for index, decay in enumerate((1e-3, 1e-1)):
        alone, _ = _fit(x, y, 3, [decay], 50, 1000, 0.05, 0)
        torch.testing.assert_close(together[:, 3 * index : 3 * index + 3], alone, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("decays", [[1e-4, 1e3], [1e3, 1e-4]])
def test_the_choice_is_made_on_the_validation_share_not_on_the_test_set(decays: list[float]) -> None:
    train, (x, labels) = clusters(90, 0.5, 0), clusters(40, 0.5, 1)
    tests = [(x, labels), (x, (labels + 1) % 3), (torch.randn_like(x), torch.full_like(labels, 2))]
    found = [linear_probe(train, test, 3, decays, held_out(90), 60, 1000, 0.1, 0) for test in tests]
    assert [result.weight_decay for result in found] == [1e-4] * 3
    assert found[0].accuracy > 0.9
    assert found[1].accuracy < 0.1


def test_training_rows_outside_the_validation_share_do_not_vote() -> None:
    x, labels = clusters(90, 0.5, 0)
    mask, wrong = held_out(90), labels.clone()
    wrong[mask] = (labels[mask] + 1) % 3
    # With the held-out labels turned, the strongest decay (which predicts nothing) wins against the right answer.
    assert linear_probe((x, wrong), (x, labels), 3, [1e-4, 1e3], mask, 60, 1000, 0.1, 0).weight_decay == 1e3


def test_features_of_chunks_equal_features_of_the_whole() -> None:
    prior, codes = prior_network(), torch.randint(0, 11, (10, 6))
    whole = features(prior, codes)
    assert whole.shape == (2, 10, 16)
    torch.testing.assert_close(features(prior, codes, batch=3), whole)
    expected = torch.stack(list(prior.block_features(codes)))
    torch.testing.assert_close(whole, expected)
