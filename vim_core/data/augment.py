"""Random views of an image whose noise is a pure function of a key."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from vim_core.config import AugmentConfig
from vim_core.data.images import Pixels, center_crop, crop_resize
from vim_core.data.sample_order import keyed_rng

DRAWS = 9
"""Numbers drawn for every view, needed or not: changing one setting leaves the noise of the others as it was."""

MARGIN = 2
"""Pixels around the area that the affine map reads, for the bilinear filter."""


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
