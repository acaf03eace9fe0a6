"""The built-in data set: scikit-learn's 1,797 handwritten digits of 8x8 grey pixels, enlarged."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vim_core.data.images import RESAMPLE, encode_png

CLASSES = [str(digit) for digit in range(10)]
SIZE = 32
LEVELS = 16
"""The data set's brightest value."""


@cache
def _data() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    loaded: Any = load_digits()
    return loaded.images.astype(np.uint8), loaded.target.astype(np.int64)


def count() -> int:
    """How many digits there are."""
    return len(_data()[1])


def key(index: int) -> str:
    """The name of a digit, such as 'digit-0042'."""
    return f"digit-{index:04d}"


def label(index: int) -> int:
    """The digit itself, 0 to 9."""
    return int(_data()[1][index])


def png(index: int, size: int = SIZE) -> bytes:
    """A digit as an RGB PNG of `size` pixels a side, enlarged bicubically, white on black."""
    grey = np.rint(_data()[0][index] * (255 / LEVELS)).astype(np.uint8)
    large = np.array(Image.fromarray(grey).resize((size, size), RESAMPLE))
    return encode_png(np.repeat(large[:, :, None], 3, axis=2))


def digest() -> str:
    """sha256 of all pixels and labels."""
    images, labels = _data()
    return hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()
