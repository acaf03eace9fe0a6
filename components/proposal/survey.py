"""A look at a user's images through ingest's own layouts: how many, of which classes and splits, how large, in colour.

Nothing is written but what a layout unpacks. A large or remote source is listed for a limited time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from components.artifacts.counts import ImageCounts
from components.ingest.detect_layout import DIGITS, LAYOUTS, detect_layout, scan_context
from components.ingest.source_images import ImageReader, SourceImage, content_key, placement_key
from vim_core.config import IngestConfig
from vim_core.data.folders import split_by_hash
from vim_core.errors import DataError

SAMPLE = 1000
"""Images that are read: all of a small source, so that its splits are known to the image."""
PIXELS = 64
"""Images of the sample whose pixels are kept, for measuring steps."""
LISTED = 200_000
"""Images after which listing stops."""
LISTING_S = 40.0
"""Seconds after which listing stops."""
GREY = 8
"""Largest difference between the channels of a pixel, of 255, that counts as grey: JPEG leaves some."""


@dataclass(frozen=True)
class Survey:
    """The images of a source, as far as they were looked at.

    Attributes:
        source, layout, split, labelled: values for the settings of ingest.
        listed: usable images, as far as listing went.
        complete: listing came to the end.
        classes: names in label order.
        class_counts: usable images of each class.
        held_out: held-out images of each class where the source has its own validation part.
        unusable: files that cannot be used with their reasons, estimated from the sample for those not read.
        sides: shorter sides of the sampled images, sorted.
        colour: share of the sampled images with colour.
        keys: name, class and key of every image of a source that was read completely, else none.
        pixels: some images.
    """

    source: str
    layout: str
    split: str
    labelled: bool
    listed: int
    complete: bool
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    held_out: tuple[int, ...]
    unusable: Counter[str]
    sides: tuple[int, ...]
    colour: float
    keys: tuple[tuple[str, str, str], ...] = ()
    pixels: tuple[Any, ...] = field(default=(), repr=False)

    @property
    def bad_share(self) -> float:
        """Share of the files that cannot be used."""
        bad = self.unusable.total()
        return bad / max(1, bad + self.listed)

    @property
    def side(self) -> int:
        """Shorter side of the images in pixels: a tenth of them are smaller."""
        return self.sides[len(self.sides) // 10]

    def counts(self, test_fraction: float) -> ImageCounts:
        """Images by split and class: exact for a source that was read completely, else in proportion."""
        if not self.keys:
            total = self.class_counts or (self.listed,)
            own = self.split == "folders"
            test = list(self.held_out) if own else [round(count * test_fraction) for count in total]
            train = [count - held for count, held in zip(total, test, strict=True)]
            by_class = {"train": train, "test": test} if self.classes else {"train": [], "test": []}
            splits = {"train": sum(train), "test": sum(test)}
            return ImageCounts(splits, self.classes, by_class, lambda split: [])
        rows = [
            (split or split_by_hash(placement_key(key), test_fraction), name, key) for split, name, key in self.keys
        ]
        counts = {
            split: [sum((side, name) == (split, each) for side, name, _ in rows) for each in self.classes]
            for split in ("train", "test")
        }
        splits = {split: sum(side == split for side, _, _ in rows) for split in ("train", "test")}
        return ImageCounts(splits, self.classes, counts, lambda split: [key for side, _, key in rows if side == split])


def survey(source: str, work: str) -> Survey:
    """Look at a folder or URI; `work` takes what a layout has to unpack.

    Raises:
        DataError: nothing is there, the files are of several kinds, or no image of the sample can be read.
    """
    layout = detect_layout(IngestConfig(source=source))
    listing = Listing(())
    # A validation part of the source's own comes first, then images with classes, then images alone.
    for split in ("hash",) if source == DIGITS else ("folders", "hash"):
        for labelled in (True, False):
            config = IngestConfig(source=source, split=split, labelled=labelled)
            try:
                listing = list_images(config, layout, work)
            except DataError:
                if split == "hash":
                    raise
                continue
            sides = {image.split for image in listing.usable}
            with_class = not labelled or len(listing.usable) >= listing.unusable.total()
            if listing.usable and with_class and (split == "hash" or sides == {"train", "test"}):
                return _read_sample(config, layout, listing, work)
    reasons = ", ".join(listing.unusable) or "there is no file"
    raise DataError(f"{source}: no image was found by the layout {layout}: {reasons}")


@dataclass
class Listing:
    """Usable images in their order, reasons why others are not, the source's own class names, whether it is all."""

    usable: tuple[SourceImage, ...]
    unusable: Counter[str] = field(default_factory=Counter)
    classes: tuple[str, ...] = ()
    complete: bool = True


def list_images(config: IngestConfig, layout: str, work: str) -> Listing:
    """The images of a source, up to a number and for a limited time. Raises `DataError` as ingest does."""
    context = scan_context(config, layout, work)
    parts = LAYOUTS[layout].find_parts(context)
    if config.split == "folders" and not {"train", "test"} <= {part.split for part in parts.parts}:
        return Listing(())
    images: list[SourceImage] = []
    began, unusable, complete = time.monotonic(), Counter[str](), True
    for image in (image for part in parts.parts for image in LAYOUTS[layout].scan_part(context, part)):
        if len(images) >= LISTED or time.monotonic() - began > LISTING_S:
            complete = False
            break
        if image.reason:
            unusable[image.reason.split(":")[0]] += 1
        elif not config.labelled or image.name or image.label >= 0:
            images.append(image)
        else:
            unusable["without a class"] += 1
    given = context.classes.ids if context.classes else parts.classes
    return Listing(tuple(images), unusable, tuple(given), complete)


def _read_sample(config: IngestConfig, layout: str, listing: Listing, work: str) -> Survey:
    images = listing.usable
    step = -(-len(images) // SAMPLE)
    chosen, known = images[::step], step == 1 and listing.complete
    labels = list(_class_names(listing)) if config.labelled else []
    sides, colours, keys = [], [], []
    pixels: list[Any] = []
    unusable, usable, seen = Counter(listing.unusable), list[SourceImage](), Counter[tuple[str, str]]()
    for image, data, reason in _decoded(config, chosen, work):
        if reason:
            unusable[reason.split(":")[0]] += step
            continue
        picture, raw = data
        usable.append(image)
        sides.append(min(picture.shape[:2]))
        colours.append(bool((picture.max(axis=2).astype(int) - picture.min(axis=2) > GREY).mean() > 0.01))
        content = image.key or content_key(raw)
        occurrence = seen[image.split, content]
        seen[image.split, content] += 1
        keys.append((image.split, _name(image), image.key or f"{content}-{occurrence}"))
        if len(pixels) < PIXELS:
            pixels.append(picture)
    if not usable:
        raise DataError(f"{config.source}: no image can be read: {', '.join(unusable)}")
    counted = usable if known else images
    names = Counter(map(_name, counted))
    held = Counter(_name(image) for image in counted if image.split == "test")
    return Survey(
        config.source, layout, config.split, config.labelled, len(counted), listing.complete, tuple(labels),
        tuple(names[label] for label in labels),
        tuple(held[label] for label in labels) if labels else (held.total(),),
        unusable, tuple(sorted(sides)), sum(colours) / len(colours), tuple(keys) if known else (), tuple(pixels),
    )  # fmt: skip


def _class_names(listing: Listing) -> Iterator[str]:
    if listing.classes:
        yield from listing.classes
        return
    names = sorted({_name(image) for image in listing.usable})
    yield from sorted(names, key=int) if all(name.isdecimal() for name in names) else names


def _name(image: SourceImage) -> str:
    return image.name or (str(image.label) if image.label >= 0 else "")


def _decoded(
    config: IngestConfig, images: tuple[SourceImage, ...], work: str
) -> Iterator[tuple[SourceImage, Any, str]]:
    """Every image with its pixels [H, W, 3] and bytes, or the reason why it has none."""
    from vim_core.data.images import decode

    with ImageReader(config, work) as reader:

        def read(image: SourceImage) -> tuple[SourceImage, Any, str]:
            try:
                raw = reader.read(image)
                return image, (decode(raw, config.max_pixels), raw), ""
            except DataError as error:
                return image, None, str(error)

        yield from reader.map(read, images)
