"""Tables of random images and codes: enough for a task to be built; the timed steps get their batch from memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vim_core.data.code_files import CodeMeta, write_codes
from vim_core.data.image_tables import ImageRow, write_images
from vim_core.data.images import encode_png


def image_table(path: Path, size: int, count: int = 2) -> str:
    """A file of random images."""
    pixels = np.random.default_rng(0).integers(0, 256, size=(count, size, size, 3), dtype=np.uint8)
    rows = [ImageRow(f"image-{i}", 0, encode_png(picture), size, size, "random") for i, picture in enumerate(pixels)]
    write_images(str(path), rows)
    return str(path)


def code_table(path: Path, side: int, vocabulary: int, count: int = 2) -> str:
    """A file of random codes on a square grid."""
    codes = np.random.default_rng(0).integers(0, vocabulary, (count, side * side))
    zeros = np.zeros(count, np.int32)
    meta = CodeMeta("train", (side, side), vocabulary, "random")
    write_codes(str(path), [f"image-{i}" for i in range(count)], zeros, zeros, codes, meta)
    return str(path)
