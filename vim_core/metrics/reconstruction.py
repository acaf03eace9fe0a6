"""Similarity of reconstructions to their originals: PSNR and SSIM, per image."""

from __future__ import annotations

import torch
import torch.nn.functional as F

WINDOW = 11
"""Side of SSIM's Gaussian window; an image must be at least this large."""

SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2


def psnr(originals: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB of images [N, 3, H, W] in [0, 1]: float64 [N], one value per image.

    The squared error is averaged over all pixels and channels of an image, the peak is 1. Equal images give inf.
    Raises `ValueError` for unequal shapes.
    """
    x, y = _pair(originals, reconstructions)
    return -10.0 * torch.log10((x - y).square().mean(dim=(1, 2, 3)))


def ssim(originals: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
    """Structural similarity of images [N, 3, H, W] in [0, 1]: float64 [N], averaged over positions and channels.

    Protocol of Wang et al. 2004: 11 x 11 Gaussian window of sigma 1.5, population covariances, range 1, only
    positions where the window fits; the same as skimage's with gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False. Raises `ValueError` for unequal shapes or images smaller than the window.
    """
    x, y = _pair(originals, reconstructions)
    if min(x.shape[-2:]) < WINDOW:
        raise ValueError(f"images of {tuple(x.shape[-2:])} pixels: SSIM needs at least {WINDOW} x {WINDOW}")
    mean_x, mean_y = _blur(x), _blur(y)
    var_x = _blur(x * x) - mean_x.square()
    var_y = _blur(y * y) - mean_y.square()
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x.square() + mean_y.square() + C1)
    structure = (2 * covariance + C2) / (var_x + var_y + C2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _pair(originals: torch.Tensor, reconstructions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if originals.ndim != 4 or originals.shape != reconstructions.shape:
        shapes = f"{tuple(originals.shape)} and {tuple(reconstructions.shape)}"
        raise ValueError(f"images of shapes {shapes}: both must be the same [N, 3, H, W]")
    return originals.double(), reconstructions.double()


def _blur(images: torch.Tensor) -> torch.Tensor:
    """Gaussian mean over every window that fits: [N, C, H, W] to [N, C, H - 10, W - 10]."""
    offsets = torch.arange(WINDOW, dtype=torch.float64, device=images.device) - WINDOW // 2
    taps = torch.exp(-0.5 * (offsets / SIGMA).square())
    taps = taps / taps.sum()
    count, channels, height, width = images.shape
    flat = images.reshape(count * channels, 1, height, width)
    rows = F.conv2d(flat, taps.view(1, 1, WINDOW, 1))
    both = F.conv2d(rows, taps.view(1, 1, 1, WINDOW))
    return both.reshape(count, channels, *both.shape[-2:])
