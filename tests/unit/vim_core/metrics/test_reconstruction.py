"""PSNR and SSIM against skimage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vim_core.metrics.reconstruction import psnr, ssim

torch.set_num_threads(1)


def pair(height: int, width: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(height + width)
    x = torch.rand(3, 3, height, width, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    return smooth, (smooth + noise * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize(("height", "width", "noise"), [(11, 11, 0.1), (32, 32, 0.02), (33, 48, 0.3)])
def test_equal_skimage_per_image(height: int, width: int, noise: float) -> None:
    x, y = pair(height, width, noise)
    ours_psnr, ours_ssim = psnr(x, y), ssim(x, y)
    assert ours_psnr.dtype == ours_ssim.dtype == torch.float64
    for i in range(len(x)):
        a, b = x[i].double().numpy(), y[i].double().numpy()
        assert ours_psnr[i].item() == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1.0), rel=1e-9)
        reference = structural_similarity(
            a, b, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0
        )
        assert ours_ssim[i].item() == pytest.approx(reference, rel=1e-9)


def test_equal_images_are_perfect() -> None:
    x, _ = pair(16, 16, 0.0)
    assert torch.isinf(psnr(x, x)).all()
    np.testing.assert_allclose(ssim(x, x).numpy(), 1.0)


def test_images_below_the_window_are_refused() -> None:
    x = torch.zeros(1, 3, 16, 16)
    with pytest.raises(ValueError, match="at least 11"):
        ssim(x[..., :10, :], x[..., :10, :])
