"""The probe's data: codes and images by step for training, by row for evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vim_core.config import AugmentConfig, ProbeConfig
from vim_core.data.code_files import CodeFile
from vim_core.data.code_tables import CodeTable
from vim_core.data.image_loader import ImageLoader
from vim_core.data.lane_schedule import Ids
from vim_core.data.probe_split import is_validation
from vim_core.data.sample_order import SampleOrder
from vim_core.data.step_reader import StepImages
from vim_core.errors import DataError

PADDING_LABEL = -1
"""The label of rows that pad a batch: no head predicts it."""


@dataclass
class ProbeData:
    """Code table files of both splits, weights and config of the prior, the number of classes.

    The image table files are for the baseline on raw pixels. `cache` is `run.code_cache`.
    """

    train: Sequence[str | CodeFile] = ()
    test: Sequence[str | CodeFile] = ()
    prior: tuple[str, str] = ("", "")
    classes: int = 0
    train_images: list[str] = field(default_factory=list)
    test_images: list[str] = field(default_factory=list)
    cache: str = ""


class ProbeRows(ABC):
    """Labelled rows of both splits: training rows by step, validation and test rows in plain view.

    `labels` and `keys` are those of the training rows, of which `plain` are the numbers of those in plain view; the
    test split, with `test_labels`, has only such.

    Raises:
        DataError: a training row has no label, or there is no validation row.
    """

    order: SampleOrder

    def __init__(
        self, config: ProbeConfig, labels: np.ndarray, keys: Sequence[str], plain: Ids, test_labels: np.ndarray
    ) -> None:
        self.config, self.labels, self.keys = config, labels, keys
        self.plain, self.test_labels = plain, test_labels
        if int(labels.min(initial=0)) < 0:
            raise DataError("probe: a training image has no label; ingest it with its class, or leave probe out")

    @abstractmethod
    def read(self, rows: Ids, test: bool, encoded: Sequence[bytes] = ()) -> Tensor:
        """Inputs of these rows of the training or test split, of encoded images where they are given."""

    def request(self, step: int, rank: int, world: int) -> StepImages:
        """This rank's share of a step, for `prepare`; without encoded images where there are none."""
        return StepImages(*self.order.batch(step, self.config.batch, rank, world), [])

    def requests(self, steps: Sequence[int], rank: int, world: int) -> Generator[StepImages, None, None]:
        """The same of each step, perhaps read ahead; close it to end that."""
        for step in steps:
            yield self.request(step, rank, world)

    def prepare(self, request: StepImages) -> dict[str, Tensor]:
        """From a share: `inputs`, `labels` [b], and as 0.0 or 1.0 `fits` [b] and `new` [b].

        `fits` is 0.0 for validation images; `new` is 0.0 after the first epoch, whose rows the sums include already.
        """
        rows = request.rows
        validation = [is_validation(self.keys[int(row)], self.config) for row in rows]
        return {
            "inputs": self.read(rows, test=False, encoded=request.encoded),
            "labels": torch.from_numpy(self.labels[rows].astype(np.int64)),
            "fits": 1.0 - torch.tensor(validation, dtype=torch.float32),
            "new": torch.from_numpy((request.positions < self.order.total).astype(np.float32)),
        }

    def any_new(self, step: int) -> bool:
        """True if the global batch of a step has rows of the first epoch."""
        return bool((self.order.positions(step, self.config.batch, 0, self.config.batch) < self.order.total).any())

    def validation(self) -> Ids:
        """Numbers of the validation rows: training rows in plain view. Raises `DataError` if there is none."""
        rows = [row for row in self.plain if is_validation(self.keys[int(row)], self.config)]
        if not rows:
            share = self.config.validation_share
            raise DataError(f"probe.validation_share={share}: no image of the training split falls into it; raise it")
        return np.array(rows, dtype=np.int64)

    def evaluation_batches(self, test: bool, rank: int, world: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels of this rank's share of the test or validation rows, in batches of one size.

        The last one is padded with rows of label `PADDING_LABEL`.
        """
        labels = self.test_labels if test else self.labels
        rows = np.arange(len(labels)) if test else self.validation()
        batch = self.config.batch
        for start in range(0, len(rows), batch):
            chosen = np.resize(rows[start : start + batch], batch)
            padded = labels[chosen].astype(np.int64)  # [batch]
            padded[len(rows[start : start + batch]) :] = PADDING_LABEL
            part = slice(rank * batch // world, (rank + 1) * batch // world)
            yield self.read(chosen[part], test), torch.from_numpy(padded[part])


class CodeProbeRows(ProbeRows):
    """Codes [b, T] of the code table, all views in training; widened to int64 a batch at a time."""

    def __init__(self, config: ProbeConfig, data: ProbeData) -> None:
        self.train, self.test = CodeTable(data.train, data.cache), CodeTable(data.test, data.cache)
        self.order = SampleOrder([len(self.train)], config.seed)
        plain = np.flatnonzero(self.train.view == 0)
        super().__init__(config, self.train.labels, self.train.keys, plain, self.test.labels)

    def read(self, rows: Ids, test: bool, encoded: Sequence[bytes] = ()) -> Tensor:
        """Codes int64 [b, T]."""
        return torch.from_numpy((self.test if test else self.train).codes[rows].astype(np.int64))


class PixelProbeRows(ProbeRows):
    """Images [b, 3, P, P] of the image table in plain view, P being `probe.pixels`."""

    def __init__(self, config: ProbeConfig, data: ProbeData) -> None:
        size = config.pixels
        self.train, self.test = (
            ImageLoader(uris, size, AugmentConfig(), config.seed) for uris in (data.train_images, data.test_images)
        )
        self.order = self.train.order
        labels, test_labels = (images.labels.numpy() for images in (self.train, self.test))
        super().__init__(config, labels, self.train.table.keys, np.arange(len(self.train)), test_labels)

    def request(self, step: int, rank: int, world: int) -> StepImages:
        """With encoded images."""
        return self.train.read(step, self.config.batch, rank, world)

    def requests(self, steps: Sequence[int], rank: int, world: int) -> Generator[StepImages, None, None]:
        """With encoded images, read ahead."""
        return self.train.read_steps(steps, self.config.batch, rank, world)

    def read(self, rows: Ids, test: bool, encoded: Sequence[bytes] = ()) -> Tensor:
        """Images uint8 [b, 3, P, P]."""
        return (self.test if test else self.train).squares(rows, encoded)
