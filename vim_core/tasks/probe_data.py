"""What the probe reads: codes and images by step, or by row for judging; nothing is kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vim_core.config import AugmentConfig, ProbeConfig
from vim_core.data.code_files import CodeFile
from vim_core.data.code_tables import CodeTable
from vim_core.data.image_loader import INTERLEAVE, ImageLoader
from vim_core.data.image_tables import stable_hash
from vim_core.data.sample_order import Ids, SampleOrder
from vim_core.errors import DataError

PADDING_LABEL = -1
"""The label of a row that fills a batch up: no head predicts it."""


@dataclass
class ProbeData:
    """Code table files of both splits, weights and config of the prior, the number of classes.

    With image table files the probe has its baseline on raw pixels. `cache` is `run.code_cache`.
    """

    train: Sequence[str | CodeFile] = ()
    test: Sequence[str | CodeFile] = ()
    prior: tuple[str, str] = ("", "")
    classes: int = 0
    train_images: list[str] = field(default_factory=list)
    test_images: list[str] = field(default_factory=list)
    cache: str = ""


def is_validation(key: str, config: ProbeConfig) -> bool:
    """Whether a training image helps to choose among heads instead of fitting; all its views go the same way."""
    return stable_hash("probe", str(config.seed), key) % 10_000 < config.validation_share * 10_000


class ProbeRows(ABC):
    """Labelled rows of both splits under one name: training rows by step, judged rows in plain view.

    Raises:
        DataError: a training row has no label, or no row is left to choose heads on or to fit them on.
    """

    order: SampleOrder

    def __init__(self, config: ProbeConfig, labels: np.ndarray, keys: Sequence[str]) -> None:
        self.config, self.labels, self.keys = config, labels, keys
        if int(labels.min(initial=0)) < 0:
            raise DataError("probe: a training image has no label; ingest it with its class, or leave probe out")

    @abstractmethod
    def read(self, rows: Ids, test: bool) -> Tensor:
        """Inputs of these rows of a split."""

    @abstractmethod
    def plain(self) -> Ids:
        """Training rows in plain view."""

    @abstractmethod
    def test_labels(self) -> np.ndarray:
        """Of all rows of the test split, which has the plain view alone."""

    @property
    def total(self) -> int:
        """Training rows."""
        return self.order.total

    def step(self, step: int, rank: int, world: int) -> dict[str, Tensor]:
        """This rank's share of a step: `inputs`, `labels` [b], `fits` [b] (0.0 for validation images), `new` [b].

        `new` is 0.0 for rows beyond the first epoch, which the sums have seen.
        """
        positions, rows = self.order.batch(step, self.config.batch, rank, world)
        held = [is_validation(self.keys[int(row)], self.config) for row in rows]
        return {
            "inputs": self.read(rows, test=False),
            "labels": torch.from_numpy(self.labels[rows].astype(np.int64)),
            "fits": 1.0 - torch.tensor(held, dtype=torch.float32),
            "new": torch.from_numpy((positions < self.total).astype(np.float32)),
        }

    def validation(self) -> Ids:
        """Training rows to choose on: validation images in plain view."""
        found = np.array(
            [row for row in self.plain() if is_validation(self.keys[int(row)], self.config)], dtype=np.int64
        )
        if not len(found):
            share = self.config.validation_share
            raise DataError(f"probe.validation_share={share}: no image of the training split falls into it; raise it")
        return found

    def judged(self, test: bool, rank: int, world: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels of this rank's share, all batches of one size; filled up with rows of label `NOBODY`."""
        labels = self.test_labels() if test else self.labels
        rows = np.arange(len(labels)) if test else self.validation()
        batch = self.config.batch
        for start in range(0, len(rows), batch):
            chosen = np.resize(rows[start : start + batch], batch)
            wanted = labels[chosen].astype(np.int64)
            wanted[len(rows[start : start + batch]) :] = PADDING_LABEL
            part = slice(rank * batch // world, (rank + 1) * batch // world)
            yield self.read(chosen[part], test), torch.from_numpy(wanted[part])


class CodeProbeRows(ProbeRows):
    """Codes [b, T] of the code table, views and all; widened a batch at a time."""

    def __init__(self, config: ProbeConfig, data: ProbeData) -> None:
        self.train, self.test = CodeTable(data.train, data.cache), CodeTable(data.test, data.cache)
        self.order = SampleOrder([len(self.train)], config.seed)
        super().__init__(config, self.train.labels, self.train.keys)

    def read(self, rows: Ids, test: bool) -> Tensor:
        """Codes int64 [b, T]."""
        return torch.from_numpy((self.test if test else self.train).codes[rows].astype(np.int64))

    def plain(self) -> Ids:
        """Rows of view 0."""
        return np.flatnonzero(self.train.view == 0)

    def test_labels(self) -> np.ndarray:
        """Of the code table."""
        return self.test.labels


class PixelProbeRows(ProbeRows):
    """Images [b, 3, P, P] of the image table in plain view, P being `probe.pixels`."""

    def __init__(self, config: ProbeConfig, data: ProbeData) -> None:
        size = config.pixels
        self.train, self.test = (
            ImageLoader(uris, size, AugmentConfig(), config.seed) for uris in (data.train_images, data.test_images)
        )
        self.order = SampleOrder(self.train.table.row_groups, config.seed, INTERLEAVE)
        super().__init__(config, self.train.labels.numpy(), self.train.table.keys)

    def read(self, rows: Ids, test: bool) -> Tensor:
        """Images in [0, 1]."""
        return (self.test if test else self.train).plain(rows)

    def plain(self) -> Ids:
        """All of them."""
        return np.arange(len(self.train))

    def test_labels(self) -> np.ndarray:
        """Of the image table."""
        return self.test.labels.numpy()
