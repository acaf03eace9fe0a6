"""Random views of an image whose noise is a pure function of a key."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vim_core.config import AugmentConfig
from vim_core.data.images import Pixels, center_crop, crop_resize
from vim_core.data.sample_order import keyed_rng

DRAWS = 9
"""Numbers drawn for every view, needed or not: changing one setting leaves the noise of the others as it was."""

MARGIN = 2
"""Pixels around what the affine map reads, for the bilinear filter."""


def augment(image: Pixels, size: int, config: AugmentConfig, key: Sequence[int | str]) -> Pixels:
    """A random view of image [H, W, 3] as uint8 [size, size, 3]; equal keys give equal views.

    One antialiased crop and resize, then one affine map for rotation, zoom and shift around the centre (edge pixels
    continue outwards), then the flip. The default settings give exactly `square(image, size)`.
    """
    if config == AugmentConfig():
        return center_crop(image, size)
    noise = keyed_rng(*key).random(DRAWS).tolist()
    view = _crop(image, size, config, noise[:4])
    view = _affine(view, config, noise[4:8])
    if noise[8] < config.flip:
        view = np.ascontiguousarray(view[:, ::-1])
    return view


def _crop(image: Pixels, size: int, config: AugmentConfig, noise: list[float]) -> Pixels:
    """A crop of random area, aspect ratio and place; one too long for a side shrinks, keeping its aspect ratio."""
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


def _affine(view: Pixels, config: AugmentConfig, noise: list[float]) -> Pixels:
    if not (config.rotate_degrees or config.zoom or config.shift):
        return view
    angle, zoom, right, down = (2 * value - 1 for value in noise)
    return affine_transform(
        view,
        degrees=angle * config.rotate_degrees,
        zoom=1 + zoom * config.zoom,
        right=right * config.shift,
        down=down * config.shift,
    )


def affine_transform(view: Pixels, degrees: float, zoom: float, right: float, down: float) -> Pixels:
    """Turn clockwise, enlarge and move (shares of the side) a square view [S, S, 3] around its centre.

    Places from outside the view take the nearest edge pixel.
    """
    size = view.shape[0]
    cos, sin = math.cos(math.radians(degrees)) / zoom, math.sin(math.radians(degrees)) / zoom
    # Pillow wants the inverse map, from places in the result to places in the view.
    middle = size / 2
    x0 = middle - cos * (middle + right * size) - sin * (middle + down * size)
    y0 = middle + sin * (middle + right * size) - cos * (middle + down * size)
    reach = (abs(cos) + abs(sin)) * (0.5 + max(abs(right), abs(down))) - 0.5
    pad = max(0, math.ceil(reach * size)) + MARGIN
    place = _edges(size, pad)
    padded = Image.fromarray(view.take(place, axis=0).take(place, axis=1))
    inverse = (cos, sin, x0 + pad, -sin, cos, y0 + pad)
    return np.array(padded.transform((size, size), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR))


@lru_cache(maxsize=64)
def _edges(size: int, pad: int) -> NDArray[np.int64]:
    """Places of a row with `pad` more at both ends, which repeat the edge pixels."""
    return np.clip(np.arange(-pad, size + pad), 0, size - 1)
