"""Pictures of samples: which classes they show, and that they are what the sampler draws."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny import prior_network, tokenizer_network
from vim_core.data.images import grid_png
from vim_core.models.vit_vqgan import Tokenizer
from vim_core.sampling.logits import SamplingSettings
from vim_core.sampling.sampler import Sampler
from vim_core.tasks.prior import preview, preview_labels


@pytest.mark.parametrize(
    ("classes", "count", "rows", "columns"),
    [(1000, 16, 2, 8), (3, 16, 6, 3), (3, 2, 1, 2), (0, 16, 2, 8), (1, 4, 4, 1)],
)
def test_each_column_is_a_class(classes: int, count: int, rows: int, columns: int) -> None:
    labels = preview_labels(classes, count)
    assert labels.shape == (rows, columns)
    assert all(len(column.unique()) == 1 for column in labels.T)
    assert int(labels.min()) == 0
    assert int(labels.max()) <= max(0, classes - 1)
    if classes:
        assert len(labels.unique()) == columns


def test_classes_are_spread_over_all() -> None:
    assert preview_labels(1000, 8)[0].tolist() == [0, 143, 285, 428, 571, 714, 856, 999]


@pytest.mark.parametrize("training", [True, False])
def test_pictures_are_the_samplers_and_leave_the_prior_as_it_was(training: bool) -> None:
    prior = prior_network(grid=(2, 2)).train(training)
    tokenizer = Tokenizer(tokenizer_network())
    png = preview(prior, tokenizer, 6, seed=4)
    assert prior.training is training
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    codes = Sampler(prior, SamplingSettings(seed=4), 6).group(0, labels)
    assert png == grid_png(tokenizer.decode(codes), columns=3)
