"""What the prior learns from: rows of a code table, or images that are augmented and encoded at every use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vim_core.config import AugmentConfig
from vim_core.data.code_tables import CodeTable
from vim_core.data.image_loader import INTERLEAVE, ImageLoader
from vim_core.data.images import to_tensor
from vim_core.data.sample_order import Ids, SampleOrder
from vim_core.models.vit_vqgan import Tokenizer


class PriorSource(ABC):
    """Samples by step, as a pure function of it; ranks slice one global batch."""

    order: SampleOrder
    labels: NDArray[np.int64]

    def batch(self, step: int, batch: int, rank: int, world: int) -> tuple[dict[str, Tensor], Tensor]:
        """This rank's share of a step, on the CPU: the tensors that `codes` takes, and labels [b]."""
        positions, rows = self.order.batch(step, batch, rank, world)
        return self.read(positions, rows), torch.from_numpy(self.labels[rows])

    @abstractmethod
    def read(self, positions: Ids, rows: Ids) -> dict[str, Tensor]:
        """Samples of these rows at these global positions."""

    @abstractmethod
    def names(self, rows: Ids) -> list[str]:
        """What people call these rows."""

    @abstractmethod
    def codes(self, tensors: dict[str, Tensor]) -> Tensor:
        """Codes int64 [b, T] of a batch, on the device it is on."""


class CodeSource(PriorSource):
    """Rows of a code table, views and all, permuted freely: the table lies in memory."""

    def __init__(self, table: CodeTable, seed: int) -> None:
        self.table = table
        self.labels = table.labels
        self.order = SampleOrder([len(table)], seed)

    def read(self, positions: Ids, rows: Ids) -> dict[str, Tensor]:
        """`codes` [b, T]."""
        return {"codes": torch.from_numpy(self.table.codes[rows].astype(np.int64))}

    def names(self, rows: Ids) -> list[str]:
        """Image keys, each with its view."""
        return [f"{self.table.keys[row]}#{int(self.table.view[row])}" for row in rows.tolist()]

    def codes(self, tensors: dict[str, Tensor]) -> Tensor:
        """As they were read."""
        return tensors["codes"]


class ImageSource(PriorSource):
    """A random view of every image, then the frozen tokenizer's one encode: the paper's input (section 4).

    A view is keyed by (seed, the image's key, epoch). The order is that of the code table over the same images, where
    their table has few row groups; a larger one interleaves row groups, as stage 1 does, instead of reading each image
    at random. So without augmentation a small table trains the prior exactly as its code table would.
    """

    def __init__(self, uris: Sequence[str], tokenizer: Tokenizer, augment: AugmentConfig, seed: int) -> None:
        self.tokenizer = tokenizer
        self.seed = seed
        self.feed = ImageLoader(uris, tokenizer.image_size, augment, seed)
        self.labels = self.feed.table.labels
        in_memory = len(self.feed.table.row_groups) <= INTERLEAVE
        self.order = SampleOrder([len(self.feed)], seed) if in_memory else self.feed.order

    def read(self, positions: Ids, rows: Ids) -> dict[str, Tensor]:
        """`images` [b, 3, S, S] in [0, 1]."""
        keys, epochs = self.feed.table.keys, positions // len(self.feed)
        views = [
            self.feed.view(row, ("prior", self.seed, keys[row], epoch))
            for row, epoch in zip(rows.tolist(), epochs.tolist(), strict=True)
        ]
        return {"images": to_tensor(np.stack(views))}

    def names(self, rows: Ids) -> list[str]:
        """Image keys."""
        return [self.feed.table.keys[row] for row in rows.tolist()]

    def codes(self, tensors: dict[str, Tensor]) -> Tensor:
        """Encoded in fp32 whatever the training's precision, in batches of the tokenizer's `encode_batch`."""
        images = tensors["images"]
        # A copy: what is made in inference mode may not be saved for a backward pass.
        return self.tokenizer.encode(images).to(images.device, copy=True)
