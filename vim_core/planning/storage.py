"""Bytes of image and code tables, from measured bytes per image."""

from __future__ import annotations

from dataclasses import dataclass

from vim_core.config import PipelineConfig

MB = 1e6
IMAGES_PER_MB = 9.932
"""Image table of original ImageNet JPEGs: tests/benchmarks/results/imagenet_rates-cpu.json, 'image table'."""
CODED_PER_MB = 427.9
"""Code table of 1,024 codes among 8,192 an image, uniform: the same file, 'code table, uniform random codes'."""
CODES = 1024

IMAGENET = "data/imagenet"
DIGITS = "builtin:digits"


@dataclass(frozen=True)
class Dataset:
    """Images of either split, and classes (0: none)."""

    train: int
    test: int
    classes: int


KNOWN = {
    IMAGENET: Dataset(1_281_167, 50_000, 1000),
    "data/celebahq": Dataset(25_000, 5_000, 0),
    "data/ffhq": Dataset(60_000, 10_000, 0),
}
"""By the `ingest.source` of the presets: ILSVRC 2012; taming-transformers' splits of CelebA-HQ and FFHQ."""
WHOLE = {DIGITS: (1_797, 10), "data/tiny-imagenet-200/train": (100_000, 200)}
"""Images and classes of sources of which `ingest.test_fraction` is held out: scikit-learn's digits, CS231n's."""


def dataset(config: PipelineConfig) -> Dataset | None:
    """What is known of `ingest.source`; None for any other."""
    ingest = config.ingest
    if ingest.source in KNOWN:
        found = KNOWN[ingest.source]
    elif ingest.source in WHOLE:
        images, classes = WHOLE[ingest.source]
        images = min(images, ingest.limit) if ingest.limit else images
        test = round(images * ingest.test_fraction)
        found = Dataset(images - test, test, classes)
    else:
        return None
    return found if ingest.labelled else Dataset(found.train, found.test, 0)


def image_table(config: PipelineConfig, images: int, bytes_per_image: float | None = None) -> float | None:
    """Bytes of the image table; None where nobody measured such images and none are given."""
    if bytes_per_image is not None:
        return images * bytes_per_image
    measured = config.ingest.source == IMAGENET and config.ingest.resize == 0
    return images * MB / IMAGES_PER_MB if measured else None


def code_table(config: PipelineConfig, train: int, test: int) -> float:
    """Bytes of the code table: as many views as configured of training images, one of the others.

    Bytes a code are those measured with 8,192 codes in two bytes each: other vocabularies compress a little otherwise.
    """
    tokens = (config.quantize.image_size // config.quantize.patch) ** 2
    rows = train * config.tokenize.views + test
    return rows * tokens * MB / CODED_PER_MB / CODES
