"""The image feed's counters: what a loader adds, and sums over processes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from vim_core.config import AugmentConfig
from vim_core.data import counters
from vim_core.data.image_loader import ImageLoader
from vim_core.data.image_tables import ImageRow, write_images
from vim_core.data.images import encode_png


def test_a_loader_counts_in_every_process_once_started(tmp_path: Path) -> None:
    image = encode_png(np.zeros((8, 8, 3), np.uint8))
    uri = str(tmp_path / "images.parquet")
    write_images(uri, [ImageRow(f"{i}", 0, image, 8, 8, "") for i in range(6)])
    loader = ImageLoader([uri], 8, AugmentConfig(), 0)
    loader.view(5, ("before",))
    counters.start(tmp_path / "counts")
    try:
        for row in (0, 1, 0):
            loader.view(row, ("key", row))
        child = os.fork()
        if not child:
            loader.view(2, ("child",))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        counters.stop()
    loader.view(3, ("after",))
    totals = counters.totals(tmp_path / "counts")
    # The parent had read the row group before; the child opens the file anew.
    assert totals == {
        "images_read": 6, "bytes_read": totals["bytes_read"], "images_kept": 0, "images_decoded": 3, "images_used": 4,
    }  # fmt: skip
    assert totals["bytes_read"] >= 6 * len(image)
