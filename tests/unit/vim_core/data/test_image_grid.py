"""Picture grids: every image in its place."""

from __future__ import annotations

import torch

from vim_core.data.image_grid import GAP, grid_png, image_grid
from vim_core.data.images import decode


def test_images_lie_in_rows_with_white_between() -> None:
    images = torch.rand(5, 3, 4, 4) * 0.9
    sheet = image_grid(images, columns=3)
    pitch = 4 + GAP
    assert sheet.shape == (3, 2 * pitch + GAP, 3 * pitch + GAP)
    covered = torch.zeros(sheet.shape[1:], dtype=torch.bool)
    for index, image in enumerate(images):
        y, x = GAP + index // 3 * pitch, GAP + index % 3 * pitch
        assert torch.equal(sheet[:, y : y + 4, x : x + 4], image)
        covered[y : y + 4, x : x + 4] = True
    assert torch.equal(sheet[:, ~covered], torch.ones(3, int((~covered).sum())))


def test_small_images_are_doubled_large_ones_are_not() -> None:
    small = decode(grid_png(torch.zeros(2, 3, 8, 8), columns=2))
    assert small.shape == (2 * (8 + 2 * GAP), 2 * (16 + 3 * GAP), 3)
    assert (small[GAP * 2 : GAP * 2 + 16, GAP * 2 : GAP * 2 + 16] == 0).all()
    assert decode(grid_png(torch.zeros(1, 3, 64, 64), columns=1)).shape == (64 + 2 * GAP, 64 + 2 * GAP, 3)
