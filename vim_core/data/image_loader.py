"""Training images by global position: decode, augment, batch; a pure function of (seed, position)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from vim_core.config import AugmentConfig
from vim_core.data.augment import augment
from vim_core.data.image_tables import ImageTable
from vim_core.data.images import Pixels, center_crop, decode, to_tensor
from vim_core.data.sample_order import Ids, SampleOrder

CACHE_PIXELS = 256 * 1024 * 1024
"""Decoded images are kept in memory up to about this many pixels (768 MiB); beyond it each use decodes again."""

INTERLEAVE = 8
"""Row groups read at once, so that a large table is not read image by image at random."""


class ImageLoader:
    """Augmented training batches and plain evaluation batches of an image table; for one thread alone."""

    def __init__(self, uris: Sequence[str], size: int, augment: AugmentConfig, seed: int) -> None:
        self.table = ImageTable(list(uris))
        self.size = size
        self.augment = augment
        self.seed = seed
        self.labels = torch.from_numpy(np.asarray(self.table.labels, dtype=np.int64))
        self.order = SampleOrder(self.table.row_groups, seed, INTERLEAVE)
        slots = max(1, CACHE_PIXELS // (size * size * 2))
        self._decoded = lru_cache(maxsize=min(slots, len(self.table)))(lambda row: decode(self.table.image(row)))

    def __len__(self) -> int:
        return len(self.table)

    def view(self, row: int, key: Sequence[int | str]) -> Pixels:
        """A random view of one image [S, S, 3]; equal keys give equal views."""
        return augment(self._decoded(row), self.size, self.augment, key)

    def batch(self, step: int, batch: int, rank: int, world: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Augmented images [b, 3, S, S] in [0, 1] and labels [b] of this rank's slice of a step."""
        positions, rows = self.order.batch(step, batch, rank, world)
        pairs = zip(positions.tolist(), rows.tolist(), strict=True)
        views = [self.view(row, ("train", self.seed, position)) for position, row in pairs]
        return to_tensor(np.stack(views)), self.labels[rows]

    def keys(self, step: int, batch: int) -> list[str]:
        """Keys of the images of step `step`'s global batch, in its order."""
        return [str(self.table.keys[int(row)]) for row in self.order.ids(step * batch, batch)]

    def plain(self, rows: Ids | Sequence[int]) -> torch.Tensor:
        """The images of these rows without augmentation [n, 3, S, S] in [0, 1]."""
        return to_tensor(np.stack([center_crop(self._decoded(int(row)), self.size) for row in rows]))
