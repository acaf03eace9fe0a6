"""The resize of the FID protocol: TensorFlow 1's bilinear interpolation."""

from __future__ import annotations

import torch
from torch import Tensor


def tf1_bilinear(images: Tensor, size: int) -> Tensor:
    """Float images [..., H, W] at `size` x `size` as `tf.image.resize_bilinear(align_corners=False)` of TensorFlow 1.

    Output pixel i looks at i * (H / size), not at pixel centres, without antialias; positions and weights are float32
    as in TensorFlow's kernel, so that the result is the same to the bit on a CPU.
    """
    low, high, weight = _positions(images.shape[-1], size, images)
    left, right = images[..., low], images[..., high]
    rows = left + (right - left) * weight
    low, high, weight = _positions(images.shape[-2], size, images)
    top, bottom = rows[..., low, :], rows[..., high, :]
    return top + (bottom - top) * weight[:, None]


def _positions(length: int, size: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each output position: the input positions before and behind it, and the weight of the one behind."""
    scale = torch.tensor(length / size, dtype=torch.float32, device=like.device)
    position = torch.arange(size, dtype=torch.float32, device=like.device) * scale
    low = position.long()
    return low, (low + 1).clamp_max(length - 1), (position - low).to(like.dtype)
