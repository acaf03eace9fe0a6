"""Images for a rehearsal: those of the preset's source, or generated ones in the layout that the preset expects."""

from __future__ import annotations

import io as stdio
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from components.rehearsal.shrink import CLASSES, TEST_IMAGES, TRAIN_IMAGES
from vim_core.config import IngestConfig
from vim_core.storage import io

WIDTH, HEIGHT = 500, 375
"""Pixels of most of ImageNet's photographs."""
SCENES = 6
"""Noise fields that all images are cut from: a Fourier transform each."""
QUALITY = 90


def own_images(ingest: IngestConfig) -> bool:
    """True if the preset's images are there."""
    return ingest.source.startswith("builtin:") or io.exists(ingest.source)


def kind(ingest: IngestConfig) -> str:
    """A name for the layout that `generate` writes: presets of one layout share their images."""
    return f"{ingest.split}-{'labelled' if ingest.labelled else 'unlabelled'}"


def generate(folder: str, ingest: IngestConfig) -> dict[str, Any]:
    """Write pictures below `folder` (a path or URI) for the source's split; returns the settings that name them.

    Spectra fall as those of photographs do, and every picture has edges; file names, classes and pixels are the same
    at every call.
    """
    source, names = io.join(folder, "images"), [f"n{9_000_000 + number:08d}" for number in range(CLASSES)]
    done = io.join(folder, "complete")
    # Written again, files have other dates, by which ingest tells whether its source has changed.
    there = io.exists(done)
    pictures = photographs(np.random.default_rng(0))
    listed: dict[str, list[str]] = {"train": [], "test": []}
    for number, name in enumerate(names if ingest.labelled else [""]):
        for split, count in (("train", TRAIN_IMAGES), ("test", TEST_IMAGES)):
            for index in range(count if ingest.labelled else count * CLASSES):
                side = {"train": "train", "test": "val"}[split] if ingest.split == "folders" else ""
                path = "/".join(part for part in (side, name, f"{split}-{number}-{index:05d}.jpg") if part)
                if not there:
                    io.write_bytes(io.join(source, path), next(pictures))
                listed[split].append(path)
    io.write_bytes(done, b"")
    values: dict[str, Any] = {"ingest.source": source, "ingest.class_list": "", "ingest.val_labels": ""}
    if ingest.split == "lists":
        for split, paths in listed.items():
            values[f"ingest.{split}_list"] = uri = io.join(folder, f"{split}.txt")
            io.write_bytes(uri, "".join(f"{path}\n" for path in paths).encode())
    return values


def photographs(rng: np.random.Generator) -> Iterator[bytes]:
    """JPEGs of 500x375 pixels without end."""
    scenes = [scene_field(rng) for _ in range(SCENES)]
    while True:
        first, second = (scenes[each] for each in rng.integers(0, SCENES, 2))
        shift = rng.integers(0, HEIGHT), rng.integers(0, WIDTH)
        mixed = np.roll(first, shift, axis=(0, 1)) + np.float32(0.4) * second[:, ::-1]
        light = rng.uniform(0.5, 0.9, 3).astype(np.float32)
        image = Image.fromarray(np.clip(mixed * light, 0, 255).astype(np.uint8))
        draw = ImageDraw.Draw(image)
        for _ in range(4):
            x, y = rng.integers(0, WIDTH, 3), rng.integers(0, HEIGHT, 3)
            red, green, blue = rng.integers(0, 256, 3).tolist()
            draw.polygon(list(zip(x.tolist(), y.tolist(), strict=True)), fill=(red, green, blue))
        stream = stdio.BytesIO()
        image.save(stream, "JPEG", quality=QUALITY)
        yield stream.getvalue()


def scene_field(rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise whose amplitude falls as one over the frequency: float [375, 500, 3] around 128."""
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.normal(size=(3, HEIGHT, WIDTH))) / frequency
    spectrum[:, 0, 0] = 0
    field = np.fft.irfft2(spectrum, (HEIGHT, WIDTH)).transpose(1, 2, 0)
    scene: NDArray[np.float32] = (128 + 50 * field / field.std()).astype(np.float32)
    return scene
