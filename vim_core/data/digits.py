"""The built-in data set: scikit-learn's 1,797 handwritten digits of 8x8 grey pixels, enlarged."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vim_core.data.images import RESAMPLE, encode_png
from vim_core.errors import DataError

CLASSES = [str(digit) for digit in range(10)]
SIZE = 32
LEVELS = 16
"""The largest pixel value in scikit-learn's file."""


@cache
def _data() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels [N, 8, 8] and labels [N]. Raises `DataError` where scikit-learn or its file is missing."""
    # Read from scikit-learn's file, because importing its loader costs two seconds of every command.
    package = find_spec("sklearn")
    for folder in (package.submodule_search_locations or []) if package else []:
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        if path.exists():
            with gzip.open(path, "rt", encoding="ascii") as stream:
                rows = np.loadtxt(stream, delimiter=",")
            return rows[:, :-1].reshape(-1, 8, 8).astype(np.uint8), rows[:, -1].astype(np.int64)
    raise DataError(
        "the digits are part of scikit-learn, but datasets/data/digits.csv.gz is not in it: install 1.5 or later"
    )


def count() -> int:
    """The number of digits."""
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
