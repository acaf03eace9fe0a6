"""Training samples of the prior: rows of a code table, or images that are augmented and encoded at every use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.profiler import record_function

from vim_core.config import AugmentConfig
from vim_core.data.code_tables import CodeTable
from vim_core.data.image_loader import INTERLEAVE, ImageLoader
from vim_core.data.lane_schedule import Ids
from vim_core.data.sample_order import SampleOrder
from vim_core.data.step_reader import StepImages
from vim_core.distributed.runtimes.base import Runtime
from vim_core.models.vit_vqgan import Tokenizer


class PriorSource(ABC):
    """Samples as a pure function of the step; ranks slice one global batch."""

    order: SampleOrder
    labels: NDArray[np.int64]

    @abstractmethod
    def request(self, step: int, batch: int, rank: int, world: int) -> StepImages:
        """This rank's share of a step, for `read`; without encoded images where there are none."""

    @abstractmethod
    def requests(self, steps: Sequence[int], batch: int, rank: int, world: int) -> Generator[StepImages, None, None]:
        """The same of each step, perhaps read ahead; close it to end that."""

    @abstractmethod
    def read(self, request: StepImages) -> dict[str, Tensor]:
        """The tensors [b, …] that `codes` needs."""

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

    def request(self, step: int, batch: int, rank: int, world: int) -> StepImages:
        """Positions and rows."""
        return StepImages(*self.order.batch(step, batch, rank, world), [])

    def requests(self, steps: Sequence[int], batch: int, rank: int, world: int) -> Generator[StepImages, None, None]:
        """`request` of each step."""
        for step in steps:
            yield self.request(step, batch, rank, world)

    def read(self, request: StepImages) -> dict[str, Tensor]:
        """`codes` [b, T]."""
        return {"codes": torch.from_numpy(self.table.codes[request.rows].astype(np.int64))}

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

    def __init__(
        self, uris: Sequence[str], tokenizer: Tokenizer, augment: AugmentConfig, seed: int, decoding: str = "full"
    ) -> None:
        self.tokenizer = tokenizer
        self.seed = seed
        self.images = ImageLoader(uris, tokenizer.image_size, augment, seed, decoding)
        self.labels = self.images.table.labels
        in_memory = len(self.images.table.row_groups) <= INTERLEAVE
        self.order = SampleOrder([len(self.images)], seed) if in_memory else self.images.order

    def request(self, step: int, batch: int, rank: int, world: int) -> StepImages:
        """Encoded images."""
        return self.images.read(step, batch, rank, world, self.order)

    def requests(self, steps: Sequence[int], batch: int, rank: int, world: int) -> Generator[StepImages, None, None]:
        """Encoded images of each step, read ahead."""
        return self.images.read_steps(steps, batch, rank, world, self.order)

    def read(self, request: StepImages) -> dict[str, Tensor]:
        """`images` uint8 [b, 3, S, S]."""
        keys, epochs = self.images.table.keys, request.positions // len(self.images)
        named = zip(request.rows.tolist(), epochs.tolist(), strict=True)
        return {
            "images": self.images.augmented(request, [("prior", self.seed, keys[row], epoch) for row, epoch in named])
        }

    def names(self, rows: Ids) -> list[str]:
        """Image keys."""
        return [self.images.table.keys[row] for row in rows.tolist()]

    def codes(self, tensors: dict[str, Tensor], runtime: Runtime) -> Tensor:
        """Codes of the images, encoded in strict fp32 whatever the training's precision, without waiting for them."""
        with record_function("vim.encode"):
            return self.tokenizer.encode_on_device(tensors["images"], runtime)
