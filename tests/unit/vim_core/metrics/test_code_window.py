"""The moving window of code counts against the figures of the same images counted at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vim_core.metrics.code_window import CodeUsageWindow
from vim_core.metrics.codebook import histogram, perplexity, usage


@pytest.mark.parametrize("batch", [256, 100, 64])
def test_a_full_window_is_the_figure_of_its_images(batch: int) -> None:
    size, batches = 50, -(-256 // batch)
    codes = (np.random.default_rng(0).random((batch * (batches + 2), 2)) ** 3 * size).astype(np.int64)
    window = CodeUsageWindow(size, batch, torch.device("cpu"))
    for rows in np.split(codes, batches + 2):
        found = window.add(torch.from_numpy(histogram(rows, size)).float())
    last = codes[-batch * batches :]
    assert float(found["codebook_usage"]) == pytest.approx(usage(last, size, len(last)))
    assert float(found["codebook_perplexity"]) == pytest.approx(perplexity(histogram(last, size)), rel=1e-5)


def test_codes_that_fell_out_of_use_leave_the_window() -> None:
    window = CodeUsageWindow(4, 128, torch.device("cpu"))
    window.add(torch.tensor([9.0, 0.0, 0.0, 0.0]))
    assert float(window.add(torch.tensor([0.0, 1.0, 1.0, 0.0]))["codebook_usage"]) == 0.75
    last = window.add(torch.tensor([0.0, 3.0, 3.0, 0.0]))
    assert float(last["codebook_usage"]) == 0.5
    assert float(last["codebook_perplexity"]) == pytest.approx(2.0)


def test_a_skipped_batch_is_shown_and_not_kept() -> None:
    window = CodeUsageWindow(4, 128, torch.device("cpu"))
    window.add(torch.tensor([9.0, 0.0, 0.0, 0.0]))
    skipped = window.add(torch.tensor([0.0, 1.0, 1.0, 1.0]), torch.tensor(1.0))
    assert float(skipped["codebook_usage"]) == 1.0
    kept = window.add(torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.tensor(0.0))
    assert float(kept["codebook_usage"]) == 0.5
