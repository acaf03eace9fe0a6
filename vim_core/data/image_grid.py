"""Grids of images as one PNG."""

from __future__ import annotations

import torch
from torch import Tensor

from vim_core.data.images import encode_png, from_tensor

GAP = 2


def image_grid(images: Tensor, columns: int) -> Tensor:
    """Images [N, 3, S, S] in [0, 1] as rows of `columns` with white gaps -> [3, H, W]."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    sheet = torch.ones(channels, rows * (height + GAP) + GAP, columns * (width + GAP) + GAP)
    for index, image in enumerate(images):
        top, left = divmod(index, columns)
        y, x = GAP + top * (height + GAP), GAP + left * (width + GAP)
        sheet[:, y : y + height, x : x + width] = image
    return sheet


def grid_png(images: Tensor, columns: int) -> bytes:
    """The grid as PNG bytes; images below 64 pixels are doubled without smoothing."""
    sheet = image_grid(images.float().cpu(), columns)  # [3, H, W]
    if images.shape[-1] < 64:
        sheet = sheet.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    return encode_png(from_tensor(sheet[None])[0])
