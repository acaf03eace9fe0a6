"""Folders of generated colour pictures: shapes in random colours and places, a shape a class."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("disc", "square", "triangle")


def picture(shape: str, random: np.random.Generator) -> Image.Image:
    """One picture of 72 to 96 pixels a side."""
    width, height = (int(side) for side in random.integers(72, 97, size=2))
    hue = random.random()
    colours = [
        tuple(int(255 * part) for part in colorsys.hsv_to_rgb((hue + turn) % 1, 0.75, value))
        for turn, value in ((0.0, 0.95), (0.45, 0.55))
    ]
    image = Image.new("RGB", (width, height), colours[1])
    draw, radius = ImageDraw.Draw(image), random.uniform(18, 30)
    x, y = random.uniform(radius, width - radius), random.uniform(radius, height - radius)
    if shape == "triangle":
        draw.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=colours[0])
    else:
        getattr(draw, "ellipse" if shape == "disc" else "rectangle")(
            (x - radius, y - radius, x + radius, y + radius), fill=colours[0]
        )
    return image


def folder_of_pictures(folder: Path, classes: Sequence[str], count: int, seed: int = 0) -> Path:
    """`count` pictures in each class folder; directly in `folder` for the class ''."""
    random = np.random.default_rng(seed)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            picture(SHAPES[number % len(SHAPES)], random).save(folder / name / f"{number}-{index:04d}.png")
    return folder
