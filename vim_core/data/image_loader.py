"""Training images by global position: decode, augment, batch; pure functions of (seed, position) or of a view's key."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vim_core.config import AugmentConfig
from vim_core.data import counters
from vim_core.data.image_tables import ImageTable
from vim_core.data.images import UNLIMITED, Pixels, center_crop, crop_resize, decode, to_tensor
from vim_core.data.sample_order import Ids, SampleOrder, keyed_rng

if TYPE_CHECKING:
    from torch import Tensor

DRAWS = 9
"""Numbers drawn for every view, needed or not: changing one setting leaves the noise of the others as it was."""

MARGIN = 2
"""Pixels around the area that the affine map reads, for the bilinear filter."""

CACHE_PIXELS = 256 * 1024 * 1024
"""Decoded images are kept in memory up to about this many pixels (768 MiB); beyond it each use decodes again."""

INTERLEAVE = 8
"""Row groups read at once, so that a large table is not read image by image at random."""


def augment(image: Pixels, size: int, config: AugmentConfig, key: Sequence[int | str]) -> Pixels:
    """A random view of image [H, W, 3] as uint8 [size, size, 3]; equal keys give equal views.

    One antialiased crop and resize, then one affine map for rotation, zoom and shift around the centre (edge pixels
    continue outwards), then the flip. The default settings give exactly `center_crop(image, size)`.
    """
    if config == AugmentConfig():
        return center_crop(image, size)
    noise = keyed_rng(*key).random(DRAWS).tolist()
    view = random_crop(image, size, config, noise[:4])
    if config.rotate_degrees or config.zoom or config.shift:
        angle, zoom, right, down = (2 * value - 1 for value in noise[4:8])
        view = affine_transform(
            view,
            degrees=angle * config.rotate_degrees,
            zoom=1 + zoom * config.zoom,
            right=right * config.shift,
            down=down * config.shift,
        )
    return np.ascontiguousarray(view[:, ::-1]) if noise[8] < config.flip else view


def random_crop(image: Pixels, size: int, config: AugmentConfig, noise: Sequence[float]) -> Pixels:
    """A crop of random area, aspect ratio and position; one larger than the image shrinks, keeping its aspect ratio."""
    if config.min_scale == 1 and config.max_aspect == 1:
        return center_crop(image, size)
    rows, columns = image.shape[:2]
    area = rows * columns * (config.min_scale + (1 - config.min_scale) * noise[0])
    aspect = math.exp((2 * noise[1] - 1) * math.log(config.max_aspect))
    width, height = math.sqrt(area * aspect), math.sqrt(area / aspect)
    fit = min(1.0, columns / width, rows / height)
    width, height = width * fit, height * fit
    left, top = max(0.0, (columns - width) * noise[2]), max(0.0, (rows - height) * noise[3])
    return crop_resize(image, (left, top, min(left + width, columns), min(top + height, rows)), size)


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
    """Augmented training batches and plain evaluation batches of an image table; for one thread alone."""

    def __init__(self, uris: Sequence[str], size: int, augment: AugmentConfig, seed: int) -> None:
        import torch

        self.table = ImageTable(list(uris))
        self.size = size
        self.augment = augment
        self.seed = seed
        self.labels = torch.from_numpy(np.asarray(self.table.labels, dtype=np.int64))
        self.order = SampleOrder(self.table.row_groups, seed, INTERLEAVE)
        self._cache: OrderedDict[int, Pixels] = OrderedDict()
        self._cached_pixels = 0

    def __len__(self) -> int:
        return len(self.table)

    def _decoded(self, row: int) -> Pixels:
        """An image of any size [H, W, 3]; those used last stay in memory, `CACHE_PIXELS` together."""
        if row in self._cache:
            self._cache.move_to_end(row)
            return self._cache[row]
        image = decode(self.table.image(row), UNLIMITED)
        counters.add(images_decoded=1)
        self._cache[row] = image
        self._cached_pixels += image.size // 3
        while self._cached_pixels > CACHE_PIXELS and len(self._cache) > 1:
            self._cached_pixels -= self._cache.popitem(last=False)[1].size // 3
        return image

    def view(self, row: int, key: Sequence[int | str]) -> Pixels:
        """A random view of one image [S, S, 3]; equal keys give equal views."""
        counters.add(images_used=1)
        return augment(self._decoded(row), self.size, self.augment, key)

    def batch(self, step: int, batch: int, rank: int, world: int) -> tuple[Tensor, Tensor]:
        """Augmented images [b, 3, S, S] in [0, 1] and labels [b] of this rank's slice of a step."""
        positions, rows = self.order.batch(step, batch, rank, world)
        pairs = zip(positions.tolist(), rows.tolist(), strict=True)
        views = [self.view(row, ("train", self.seed, position)) for position, row in pairs]
        return to_tensor(np.stack(views)), self.labels[rows]

    def keys(self, step: int, batch: int) -> list[str]:
        """Keys of the images of step `step`'s global batch, in its order."""
        return [str(self.table.keys[int(row)]) for row in self.order.ids(step * batch, batch)]

    def plain(self, rows: Ids | Sequence[int]) -> Tensor:
        """The images of these rows without augmentation [n, 3, S, S] in [0, 1]."""
        return to_tensor(np.stack([center_crop(self._decoded(int(row)), self.size) for row in rows]))
