"""Training images by global position: decode, augment, batch; pure functions of (seed, position) or of a view's key."""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Iterable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vim_core.config import AugmentConfig
from vim_core.data import counters
from vim_core.data.image_tables import ImageTable
from vim_core.data.images import (
    UNLIMITED,
    Box,
    Pixels,
    as_floats,
    center_crop,
    crop_resize,
    decode,
    decode_crop,
    pixel_batch,
)
from vim_core.data.lane_schedule import Ids
from vim_core.data.sample_order import SampleOrder, keyed_rng
from vim_core.data.step_reader import StepImages, StepReader, read_ahead

if TYPE_CHECKING:
    from torch import Tensor

DRAWS = 9
"""Numbers drawn for every view, needed or not: changing one setting leaves the noise of the others as it was."""

MARGIN = 2
"""Pixels around the area that the affine map reads, for the bilinear filter."""

CACHE_BYTES = 1 << 30
"""Decoded training images that all processes of a host may keep together. A table that does not fit is not kept at all:
its images come back after an epoch, when a part that was kept would have been replaced."""

PLAIN_CACHE_BYTES = 1 << 26
"""The same of a loader that only evaluates."""

INTERLEAVE = 8
"""Row groups that a batch is drawn from at least; a table of no more is kept, encoded, and shuffled as one."""


def augment(image: Pixels, size: int, config: AugmentConfig, key: Sequence[int | str]) -> Pixels:
    """A random view of image [H, W, 3] as uint8 [size, size, 3]; equal keys give equal views.

    One antialiased crop and resize, then one affine map for rotation, zoom and shift around the centre (edge pixels
    continue outwards), then the flip. The default settings give exactly `center_crop(image, size)`.
    """
    if config == AugmentConfig():
        return center_crop(image, size)
    noise = keyed_rng(*key).random(DRAWS).tolist()
    if config.min_scale == 1 and config.max_aspect == 1:
        view = center_crop(image, size)
    else:
        view = crop_resize(image, crop_box(image.shape[0], image.shape[1], config, noise), size)
    return _transform(view, config, noise)


def augment_encoded(
    data: bytes, size: int, config: AugmentConfig, key: Sequence[int | str], *, scaled: bool = False
) -> Pixels:
    """The view of `augment` of an encoded image; with `scaled` a JPEG is decoded no larger than the view needs.

    Fine detail differs then: the JPEG reader has averaged it, not the resize.
    """
    if not scaled and config.min_scale == 1 and config.max_aspect == 1:
        return augment(decode(data, UNLIMITED), size, config, key)
    noise = keyed_rng(*key).random(DRAWS).tolist()

    def choose(height: int, width: int) -> Box:
        return crop_box(height, width, config, noise)

    return _transform(decode_crop(data, choose, size, UNLIMITED, scaled=scaled), config, noise)


def crop_box(height: int, width: int, config: AugmentConfig, noise: Sequence[float]) -> Box:
    """A crop of random area, aspect ratio and position; one larger than the image shrinks, keeping its aspect ratio.

    The central square where the settings allow no other.
    """
    if config.min_scale == 1 and config.max_aspect == 1:
        short = min(height, width)
        left, top = (width - short) // 2, (height - short) // 2
        return left, top, left + short, top + short
    area = height * width * (config.min_scale + (1 - config.min_scale) * noise[0])
    aspect = math.exp((2 * noise[1] - 1) * math.log(config.max_aspect))
    columns, rows = math.sqrt(area * aspect), math.sqrt(area / aspect)
    fit = min(1.0, width / columns, height / rows)
    columns, rows = max(1, round(columns * fit)), max(1, round(rows * fit))
    left, top = round((width - columns) * noise[2]), round((height - rows) * noise[3])
    return left, top, left + columns, top + rows


def _transform(view: Pixels, config: AugmentConfig, noise: Sequence[float]) -> Pixels:
    """Rotation, zoom, shift and flip of a square view [S, S, 3]."""
    if config.rotate_degrees or config.zoom or config.shift:
        angle, zoom, right, down = (2 * value - 1 for value in noise[4:8])
        view = affine_transform(
            view,
            degrees=angle * config.rotate_degrees,
            zoom=1 + zoom * config.zoom,
            right=right * config.shift,
            down=down * config.shift,
        )
    return view[:, ::-1] if noise[8] < config.flip else view


def affine_transform(view: Pixels, degrees: float, zoom: float, right: float, down: float) -> Pixels:
    """Rotate clockwise, enlarge and move (as shares of the side) a square view [S, S, 3] around its centre.

    Pixels from outside the view repeat the nearest edge pixel.
    """
    size = view.shape[0]
    cos, sin = math.cos(math.radians(degrees)) / zoom, math.sin(math.radians(degrees)) / zoom
    # Pillow takes the inverse map, from positions in the result to positions in the view.
    middle = size / 2
    x0 = middle - cos * (middle + right * size) - sin * (middle + down * size)
    y0 = middle + sin * (middle + right * size) - cos * (middle + down * size)
    reach = (abs(cos) + abs(sin)) * (0.5 + max(abs(right), abs(down))) - 0.5
    pad = max(0, math.ceil(reach * size)) + MARGIN
    index = np.clip(np.arange(-pad, size + pad), 0, size - 1)
    padded = Image.fromarray(view.take(index, axis=0).take(index, axis=1))  # [S + 2 pad, S + 2 pad, 3]
    inverse = (cos, sin, x0 + pad, -sin, cos, y0 + pad)
    return np.array(padded.transform((size, size), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR))


class ImageLoader:
    """Augmented training batches and plain evaluation batches of an image table; for one thread alone.

    With `decoding='scaled'` augmented images are made by `augment_encoded` and never kept; plain ones are decoded in
    full all the same.
    """

    def __init__(
        self, uris: Sequence[str], size: int, augment: AugmentConfig, seed: int, decoding: str = "full"
    ) -> None:
        import torch

        self.table = ImageTable(list(uris))
        self.size = size
        self.augment = augment
        self.decoding = decoding
        self.seed = seed
        self.labels = torch.from_numpy(np.asarray(self.table.labels, dtype=np.int64))
        self.order = SampleOrder(self.table.row_groups, seed, INTERLEAVE)
        self._cache: dict[int, Pixels] = {}
        self._keeps: bool | None = None
        self._reader: StepReader | None = None

    def __len__(self) -> int:
        return len(self.table)

    def _decoded(self, row: int, encoded: bytes | None = None) -> Pixels:
        """An image of any size [H, W, 3]; all stay in memory where all of them may (`share_host`)."""
        if row in self._cache:
            return self._cache[row]
        image = decode(self.table.image(row) if encoded is None else encoded, UNLIMITED)
        counters.add(images_decoded=1)
        if self._keeps is None:
            self._keeps = self.table.decoded_bytes(PLAIN_CACHE_BYTES) <= PLAIN_CACHE_BYTES
        if self._keeps:
            self._cache[row] = image
        return image

    def share_host(self, batch: int, world: int, processes: int) -> list[str]:
        """Keep decoded images only if all fit into each of the host's processes that decode; returns notes on that.

        Args:
            batch, world: global batch and workers, for a note on lanes that they share.
            processes: of this host, that prepare batches of these images.
        """
        size = self.table.decoded_bytes(CACHE_BYTES)
        self._keeps = size * processes <= CACHE_BYTES and self.decoding == "full"
        limit = f"{CACHE_BYTES >> 20} MiB for {processes} processes of this host"
        notes = [
            f"decoded images are kept: {size / 2**20:.1f} MiB in each process, of {limit}"
            if self._keeps
            else f"decoded images are not kept: {size / 2**20:,.0f} MiB or more in each process, of {limit}"
            if self.decoding == "full"
            else "decoded images are not kept: each use decodes at a size of its own (image_decoding=scaled)"
        ]
        lanes = self.order.lanes(batch)
        if lanes % world:
            notes.append(
                f"{world} workers share {lanes} lanes of the image table, so row groups are read more than once; a "
                f"number of workers that divides {lanes} reads them once"
            )
        return notes

    def view(self, row: int, key: Sequence[int | str], encoded: bytes | None = None) -> Pixels:
        """A random view of one image [S, S, 3]; equal keys give equal views. Reads what is not given as `encoded`."""
        counters.add(images_used=1)
        if self.decoding == "full" and self._keeps is not False:
            return augment(self._decoded(row, encoded), self.size, self.augment, key)
        counters.add(images_decoded=1)
        data = self.table.image(row) if encoded is None else encoded
        return augment_encoded(data, self.size, self.augment, key, scaled=self.decoding == "scaled")

    def read(self, step: int, batch: int, rank: int, world: int, order: SampleOrder | None = None) -> StepImages:
        """This rank's encoded images of a step, in this loader's order or another of the table; best step by step."""
        order, reader = order or self.order, self._reader
        if reader is None or reader.share != (order, batch, rank, world):
            reader = self._reader = StepReader(self.table, order, batch, rank, world)
        return reader.read(step)

    def read_steps(
        self, steps: Iterable[int], batch: int, rank: int, world: int, order: SampleOrder | None = None
    ) -> Generator[StepImages, None, None]:
        """`read` of each step, ahead of its use in a thread that ends when this is closed; loads nothing before."""
        # Files and schedules of its own, because it is another thread.
        reader = StepReader(copy.copy(self.table), (order or self.order).fresh(), batch, rank, world)
        return read_ahead(reader.read(step) for step in steps)

    def views(self, images: StepImages) -> Tensor:
        """Augmented images uint8 [b, 3, S, S], keyed by their positions."""
        keys = [("train", self.seed, position) for position in images.positions.tolist()]
        return self.augmented(images, keys)

    def augmented(self, images: StepImages, keys: Iterable[Sequence[int | str]]) -> Tensor:
        """A view of each image with its key, uint8 [b, 3, S, S]."""
        each = zip(images.rows.tolist(), keys, images.encoded, strict=True)
        return pixel_batch([self.view(row, key, encoded) for row, key, encoded in each])

    def keys(self, step: int, batch: int) -> list[str]:
        """Keys of the images of step `step`'s global batch, in its order."""
        return [str(self.table.keys[row]) for row in self.order.batch(step, batch)[1].tolist()]

    def plain(self, rows: Ids | Sequence[int]) -> Tensor:
        """The images of these rows without augmentation [n, 3, S, S] in [0, 1]."""
        return as_floats(self.squares(rows))

    def squares(self, rows: Ids | Sequence[int], encoded: Sequence[bytes] = ()) -> Tensor:
        """The images of these rows without augmentation, uint8 [n, 3, S, S]; reads what is not given as `encoded`."""
        images = [self._decoded(int(row), data) for row, data in zip_longest(rows, encoded)]
        return pixel_batch([center_crop(image, self.size) for image in images])
