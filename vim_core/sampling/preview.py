"""A look at what a prior draws so far: a few images a class, decoded."""

from __future__ import annotations

import torch
from torch import Tensor

from vim_core.data.image_grid import grid_png
from vim_core.models.prior import ImagePrior
from vim_core.models.vit_vqgan import Tokenizer
from vim_core.sampling.logits import SamplingSettings
from vim_core.sampling.sampler import Sampler

CLASSES = 8
"""Columns of the picture at most; classes beyond are passed over evenly."""


def shown_labels(classes: int, count: int) -> Tensor:
    """Labels int64 [rows, columns] of `count` samples or a few more: each column a class, without classes all null."""
    columns = min(CLASSES, classes or CLASSES, count)
    labels = torch.linspace(0, max(0, classes - 1), columns).round().long()
    return labels.expand(-(-count // columns), columns)


def preview(prior: ImagePrior, tokenizer: Tokenizer, count: int, seed: int) -> bytes:
    """A PNG of at least `count` samples at temperature 1, with the same noise each time."""
    labels = shown_labels(prior.shape.classes, count)
    training = prior.training
    codes = Sampler(prior, SamplingSettings(seed=seed), labels.numel()).group(0, labels.flatten())
    prior.train(training)
    return grid_png(tokenizer.decode(codes), columns=labels.shape[1])
