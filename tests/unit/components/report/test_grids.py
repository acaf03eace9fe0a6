"""Pictures of the page hold the images of the artifacts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from components.report import grids
from tests.support.html import opened
from tests.support.synthetic import CLASSES, SIZE, generated, pictures, tables


def test_pictures_show_the_images_themselves(tmp_path: Path) -> None:
    made = tables(tmp_path)
    [first, *_] = grids.reconstructions(made["ingest"], made["reconstruct"], {"image-000": 21.34}, 3)
    pixels = opened(first)
    np.testing.assert_array_equal(pixels[:SIZE, :, :3], pictures(12, 0)[0])
    assert (pixels[SIZE : SIZE + grids.GAP, :, 3] == 0).all()
    assert (pixels.shape, first.caption) == ((2 * SIZE + grids.GAP, SIZE, 4), "21.3 dB")


def test_a_strip_per_class_holds_only_that_class(tmp_path: Path) -> None:
    made = tables(tmp_path)
    sample = generated(tmp_path, made["quantize"])["sample"]
    strips = grids.samples_by_class(sample, CLASSES, 2, 20)
    assert [strip.caption for strip in strips] == list(CLASSES)
    images = pictures(9, 3)
    for label, strip in enumerate(strips):
        left = opened(strip)[:, :SIZE, :3]
        assert any((left == images[i]).all() for i in range(label, 9, len(CLASSES)))
    assert len(grids.samples_by_class(sample, CLASSES, 2, 1)) == 1
    unlabelled = generated(tmp_path / "unlabelled", made["quantize"], labelled=False)["sample"]
    assert [strip.caption for strip in grids.samples_by_class(unlabelled, CLASSES, 4, 20)] == ["", "", ""]
