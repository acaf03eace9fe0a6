"""Training samples of the prior: rows of a code table, or images that are augmented and encoded at every use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.profiler import record_function

from vim_core.config import AugmentConfig
from vim_core.data.code_tables import CodeTable
from vim_core.data.image_loader import INTERLEAVE, ImageLoader
from vim_core.data.images import to_tensor
from vim_core.data.sample_order import Ids, SampleOrder
from vim_core.distributed.runtimes.base import Runtime
from vim_core.models.vit_vqgan import Tokenizer


class PriorSource(ABC):
    """Samples as a pure function of the step; ranks slice one global batch."""

    order: SampleOrder
    labels: NDArray[np.int64]

    def batch(self, step: int, batch: int, rank: int, world: int) -> tuple[dict[str, Tensor], Tensor]:
        """This rank's share of a step, on the CPU: the tensors that `codes` needs, and labels [b]."""
        positions, rows = self.order.batch(step, batch, rank, world)
        return self.read(positions, rows), torch.from_numpy(self.labels[rows])

    @abstractmethod
    def read(self, positions: Ids, rows: Ids) -> dict[str, Tensor]:
        """The tensors of `rows` [b] at global `positions` [b]."""

    @abstractmethod
    def names(self, rows: Ids) -> list[str]:
        """Names of these rows for error messages."""

    @abstractmethod
    def codes(self, tensors: dict[str, Tensor], runtime: Runtime) -> Tensor:
        """Codes int64 [b, T] of a batch that `runtime` laid out, on its device."""


class CodeSource(PriorSource):
    """Rows of a code table, all views, in a free permutation, because the table is memory-mapped."""

    def __init__(self, table: CodeTable, seed: int) -> None:
        self.table = table
        self.labels = table.labels
        self.order = SampleOrder([len(table)], seed)

    def read(self, positions: Ids, rows: Ids) -> dict[str, Tensor]:
        """`codes` [b, T]."""
        return {"codes": torch.from_numpy(self.table.codes[rows].astype(np.int64))}

    def names(self, rows: Ids) -> list[str]:
        """Image keys, each with its view, such as `key#1`."""
        return [f"{self.table.keys[row]}#{int(self.table.view[row])}" for row in rows.tolist()]

    def codes(self, tensors: dict[str, Tensor], runtime: Runtime) -> Tensor:
        """The codes as they were read."""
        return tensors["codes"]


class ImageSource(PriorSource):
    """A random view of every image, encoded by the frozen tokenizer: the paper's input (section 4).

    A view is keyed by (seed, the image's key, epoch). A table of few row groups has the order of the code table of the
    same images, so without augmentation it trains the prior exactly as that does; a larger one interleaves row groups,
    as stage 1 does, instead of reading each image at random.
    """

    def __init__(self, uris: Sequence[str], tokenizer: Tokenizer, augment: AugmentConfig, seed: int) -> None:
        self.tokenizer = tokenizer
        self.seed = seed
        self.images = ImageLoader(uris, tokenizer.image_size, augment, seed)
        self.labels = self.images.table.labels
        in_memory = len(self.images.table.row_groups) <= INTERLEAVE
        self.order = SampleOrder([len(self.images)], seed) if in_memory else self.images.order

    def read(self, positions: Ids, rows: Ids) -> dict[str, Tensor]:
        """`images` [b, 3, S, S] in [0, 1]."""
        keys, epochs = self.images.table.keys, positions // len(self.images)
        views = [
            self.images.view(row, ("prior", self.seed, keys[row], epoch))
            for row, epoch in zip(rows.tolist(), epochs.tolist(), strict=True)
        ]
        return {"images": to_tensor(np.stack(views))}

    def names(self, rows: Ids) -> list[str]:
        """Image keys."""
        return [self.images.table.keys[row] for row in rows.tolist()]

    def codes(self, tensors: dict[str, Tensor], runtime: Runtime) -> Tensor:
        """Codes of the images, encoded in strict fp32 whatever the training's precision, without waiting for them."""
        with record_function("vim.encode"):
            return self.tokenizer.encode_on_device(tensors["images"], runtime)
