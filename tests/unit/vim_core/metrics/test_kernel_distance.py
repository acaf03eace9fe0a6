"""KID against torch-fidelity on the same features, and by definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vim_core.errors import DataError
from vim_core.metrics.kernel_distance import kernel_distance, leave_one_group_out, unbiased_mmd2


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_equals_torch_fidelity(shift: float) -> None:
    metric = pytest.importorskip("torch_fidelity.metric_kid")
    rng = np.random.default_rng(0)
    made, real = rng.normal(size=(150, 12)) + shift, rng.normal(size=(210, 12))
    options = {"kid_subsets": 20, "kid_subset_size": 60, "verbose": False}
    expected = metric.kid_features_to_metric(torch.from_numpy(made), torch.from_numpy(real), **options)
    mean = expected["kernel_inception_distance_mean"]
    assert kernel_distance(made, real, 20, 60) == pytest.approx(mean, rel=1e-9, abs=1e-12)


def test_the_estimate_by_definition() -> None:
    """Sums over pairs of different vectors, for sets of unequal size."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(4, 3)), rng.normal(size=(3, 3)) + 1

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 3 + 1) ** 3)

    own = [np.mean([kernel(a, b) for i, a in enumerate(side) for j, b in enumerate(side) if i != j]) for side in (x, y)]
    across = np.mean([kernel(a, b) for a in x for b in y])
    assert unbiased_mmd2(x, y) == pytest.approx(own[0] + own[1] - 2 * across)


def test_too_few_images_name_the_settings() -> None:
    with pytest.raises(DataError, match=r"subsets of 1000 .* 30 and 40.*statistics\.features"):
        kernel_distance(np.zeros((30, 2)), np.zeros((40, 2)))


def test_leaving_groups_out_in_one_pass() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(23, 4)), rng.normal(size=(17, 4)) + 0.5
    found = leave_one_group_out(x, y, 5, block=4)
    sides = [(np.arange(23) % 5, np.arange(17) % 5)] * 5
    expected = [unbiased_mmd2(x[a != group], y[b != group]) for group, (a, b) in enumerate(sides)]
    assert found == pytest.approx(expected)
