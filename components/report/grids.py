"""Pictures of pages as PNG data: strips of samples, originals above reconstructions; and read from a page again."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from io import BytesIO
from typing import TYPE_CHECKING, Any

from components.contract.api import Artifact

if TYPE_CHECKING:
    import numpy as np

    from vim_core.data.image_tables import ImageTable

TILE = 128
"""Largest side of a picture on the page, in pixels; larger images are shown smaller, which keeps the page small."""

GAP = 4
WIDEST = 1200
EMBEDDED = "data:image/png;base64,"


@dataclass(frozen=True)
class Picture:
    """An embedded PNG: its data address, size in pixels, how much the page enlarges it, and what it shows."""

    source: str
    width: int
    height: int
    scale: int
    alt: str
    caption: str = ""


def samples_by_class(samples: Artifact, classes: Sequence[str], per_class: int, most: int) -> list[Picture]:
    """One strip of samples per class, in class order; an unconditional prior's samples make one strip per line."""
    from vim_core.data.image_tables import ImageTable

    table = ImageTable(samples.uris("images/"))
    rows_of = _rows_of(table)
    if set(rows_of) <= {-1}:
        rows = rows_of.get(-1, [])[: per_class * 4]
        lines = [rows[i : i + per_class] for i in range(0, len(rows), per_class)]
        return [_strip(table, line, f"{len(line)} samples, no class asked for", "") for line in lines]
    names = {label: class_name(classes, label) for label in sorted(rows_of) if label >= 0}
    return [
        _strip(table, rows_of[label][:per_class], f"Samples of class {name}", name)
        for label, name in list(names.items())[:most]
    ]


def first_samples(samples: Artifact, count: int, alt: str) -> Picture:
    """A strip of the first images of an artifact of `sample` in the order of their numbers."""
    from vim_core.data.image_tables import ImageTable

    table = ImageTable(samples.uris("images/"))
    rows = sorted(range(len(table)), key=table.keys.__getitem__)[:count]
    return _strip(table, rows, alt, "")


def accepted_by_class(
    selected: Artifact, rate: str, classes: Sequence[str], per_class: int, most: int
) -> dict[int, Picture]:
    """One strip by class of what was kept at an acceptance rate (files `images/accepted-<rate>-…`)."""
    from vim_core.data.image_tables import ImageTable

    table = ImageTable(selected.uris(f"images/accepted-{rate}-"))
    rows_of = _rows_of(table)
    names = {label: class_name(classes, label) for label in sorted(rows_of)[:most]}
    return {
        label: _strip(table, rows_of[label][:per_class], f"Class {name} at acceptance {rate}", name)
        for label, name in names.items()
    }


def embedded(data: bytes, alt: str) -> Picture:
    """A picture from its file, at most `WIDEST` pixels wide."""
    import numpy as np
    from PIL import Image

    with Image.open(BytesIO(data)) as opened:
        image = opened.convert("RGBA")
    if image.width > WIDEST:
        image = image.resize((WIDEST, max(1, image.height * WIDEST // image.width)))
    return _picture(np.asarray(image), 32 if image.width <= WIDEST // 3 else TILE, alt, "")


def _rows_of(table: ImageTable) -> dict[int, list[int]]:
    """Rows by label, in table order."""
    rows_of: dict[int, list[int]] = {}
    for row, label in enumerate(table.labels.tolist()):
        rows_of.setdefault(label, []).append(row)
    return rows_of


def reconstructions(images: Artifact, reconstructed: Artifact, psnr_db: dict[str, float], count: int) -> list[Picture]:
    """Originals above their reconstructions, spread evenly over the reconstructed images; the caption is the PSNR."""
    from vim_core.data.image_tables import ImageTable

    originals, table = ImageTable(images.uris("images/test-")), ImageTable(reconstructed.uris("images/test-"))
    row_of = {key: row for row, key in enumerate(originals.keys)}
    count = min(count, len(table))
    pictures = []
    for row in (i * len(table) // count for i in range(count)):
        key = table.keys[row]
        after = _tile(table.image(row))
        before = _tile(originals.image(row_of[key]), after.shape[0])
        figure = f"{psnr_db[key]:.1f} dB" if key in psnr_db else ""
        alt = f"Image {key}: original above, reconstruction below{', ' + figure if figure else ''}"
        pictures.append(_picture(_join([before, after], axis=0), after.shape[0], alt, figure))
    return pictures


def psnr_by_key(measured: bytes) -> dict[str, float]:
    """PSNR of each reconstruction by the file `reconstructions.parquet` of `score`."""
    import pyarrow.parquet as pq

    table = pq.read_table(BytesIO(measured), columns=["key", "psnr_db"])
    return dict(zip(table["key"].to_pylist(), table["psnr_db"].to_pylist(), strict=True))


def class_name(classes: Sequence[str], label: int) -> str:
    """The name of a class, or its number where it has none."""
    return classes[label] if label < len(classes) else str(label)


def _strip(table: ImageTable, rows: list[int], alt: str, caption: str) -> Picture:
    tiles = [_tile(table.image(row)) for row in rows]
    return _picture(_join(tiles, axis=1), tiles[0].shape[0], alt, caption)


def _tile(data: bytes, size: int = 0) -> np.ndarray[Any, Any]:
    """A decoded image uint8 [S, S, 3], at most `TILE` pixels a side."""
    from vim_core.data.images import UNLIMITED, center_crop, decode

    image = decode(data, UNLIMITED)
    return center_crop(image, size or min(*image.shape[:2], TILE))


def _join(tiles: list[np.ndarray[Any, Any]], axis: int) -> np.ndarray[Any, Any]:
    """Tiles in a row (axis 1) or above each other (axis 0) with transparent gaps: uint8 [H, W, 4]."""
    import numpy as np

    height, width = tiles[0].shape[:2]
    shape = (GAP, width, 4) if axis == 0 else (height, GAP, 4)
    pieces: list[np.ndarray[Any, Any]] = []
    for tile in tiles:
        opaque = np.full((*tile.shape[:2], 1), 255, dtype=np.uint8)
        pieces += [np.zeros(shape, dtype=np.uint8), np.concatenate([tile, opaque], axis=2)]
    return np.concatenate(pieces[1:], axis=axis)


def _picture(pixels: np.ndarray[Any, Any], tile: int, alt: str, caption: str) -> Picture:
    from PIL import Image

    stream = BytesIO()
    Image.fromarray(pixels, "RGBA").save(stream, "PNG", optimize=True)
    source = EMBEDDED + base64.b64encode(stream.getvalue()).decode("ascii")
    return Picture(source, pixels.shape[1], pixels.shape[0], max(1, 64 // tile), alt, caption)


def read_pictures(html: str) -> dict[str, tuple[Picture, ...]]:
    """Embedded pictures of a report's page by the section they are in; others are left out."""
    reader = _PictureReader()
    reader.feed(html)
    return {section: tuple(pictures) for section, pictures in reader.pictures.items()}


class _PictureReader(HTMLParser):
    """Collects the pictures of each section with their captions."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures: dict[str, list[Picture]] = {}
        self._section = ""
        self._caption = ""
        self._in_caption = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "section":
            self._section = values.get("aria-labelledby", "")
        elif tag == "span" and values.get("class") == "class":
            self._caption, self._in_caption = "", True
        elif tag == "img" and values.get("src", "").startswith(EMBEDDED):
            width, height = (int(values[name]) if values.get(name, "").isdigit() else 0 for name in ("width", "height"))
            picture = Picture(values["src"], width, height, 1, values.get("alt", ""), self._caption)
            self.pictures.setdefault(self._section, []).append(picture)
            self._caption = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "span":
            self._in_caption = False

    def handle_data(self, data: str) -> None:
        if self._in_caption:
            self._caption += data
