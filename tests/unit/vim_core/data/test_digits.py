"""The built-in digits against scikit-learn itself."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from vim_core.data import digits
from vim_core.data.images import decode


def test_all_digits_are_there_with_their_labels() -> None:
    loaded = load_digits()
    assert digits.count() == len(loaded.target) == 1797
    assert [digits.label(i) for i in range(digits.count())] == loaded.target.tolist()
    assert digits.key(42) == "digit-0042"
    assert [digits.CLASSES[digits.label(i)] for i in range(3)] == [str(n) for n in loaded.target[:3]]


def test_at_its_own_size_a_digit_is_the_scaled_original() -> None:
    pixels = decode(digits.png(7, size=8))
    expected = load_digits().images[7] * 255 / 16
    assert np.abs(pixels - expected[:, :, None]).max() <= 0.5


def test_enlarged_digits_are_grey_png_and_keep_their_mean() -> None:
    data = digits.png(3)
    pixels = decode(data)
    assert data.startswith(b"\x89PNG")
    assert pixels.shape == (32, 32, 3)
    assert np.ptp(pixels.astype(int), axis=2).max() == 0
    assert abs(pixels.mean() - load_digits().images[3].mean() * 255 / 16) < 4
    assert data == digits.png(3)


def test_the_digest_is_fixed() -> None:
    assert digits.digest().startswith("65e5b4619795efb4")
