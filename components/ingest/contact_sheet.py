"""A small contact sheet of what was taken in, so that people see at a glance whether it is what they meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

COLUMNS, ROWS, SIDE = 8, 4, 64


def contact_sheet(tables: Sequence[str], rows: Mapping[str, int], max_pixels: int) -> bytes:
    """A PNG of 32 images, spread over the keys of the first tables: shards are assigned by hash, so any will do.

    `rows` says how many rows each table has.
    """
    import numpy as np

    from vim_core.data.image_grid import grid_png
    from vim_core.data.image_tables import ImageTable
    from vim_core.data.images import center_crop, decode, to_tensor

    taken: list[str] = []
    for uri in tables:
        if sum(rows[name] for name in taken) < COLUMNS * ROWS and rows[uri]:
            taken.append(uri)
    table = ImageTable(taken, cached_groups=1)
    chosen = np.unique(np.linspace(0, len(table) - 1, min(COLUMNS * ROWS, len(table))).round().astype(int))
    images = [center_crop(decode(table.image(int(row)), max_pixels), SIDE) for row in chosen]
    return grid_png(to_tensor(np.stack(images)), COLUMNS)
