"""Seconds that a step of each training takes on this machine, measured on some of the user's own images."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vim_core.config import PipelineConfig

if TYPE_CHECKING:
    from vim_core.tasks.base import Task

SECONDS = 2.0
"""Time after which no further step is measured."""
STEPS = 12
"""Steps that are measured at most."""


StepTimer = Callable[[PipelineConfig, Sequence[str]], dict[str, float]]
"""Gives the seconds per step of the named trainings under the settings of a preset."""


class MeasuredSteps:
    """Measures steps in this process, with a table of images in `folder`, an existing local folder.

    `pixels` are images [H, W, 3]; their labels are made up, which takes the same time.
    """

    def __init__(self, pixels: Sequence[Any], classes: int, folder: str) -> None:
        from vim_core.data.image_tables import ImageRow, write_images
        from vim_core.data.images import encode_png

        self.classes, self.folder = max(1, classes), folder
        rows = [
            ImageRow(f"{i:06d}", i % self.classes, encode_png(p), p.shape[0], p.shape[1], "")
            for i, p in enumerate(pixels)
        ]
        self.table = str(Path(folder, "images.parquet"))
        self.count = write_images(self.table, rows)

    def __call__(self, config: PipelineConfig, names: Sequence[str]) -> dict[str, float]:
        """Seconds per step of these trainings."""
        return {name: measure(self._task(name, config)) for name in names}

    def _task(self, name: str, config: PipelineConfig) -> Task:
        import numpy as np

        from vim_core.data.code_files import CodeMeta, write_codes
        from vim_core.distributed import runtimes
        from vim_core.tasks.classifier import ClassifierData, ClassifierTask
        from vim_core.tasks.prior import PriorData, PriorTask
        from vim_core.tasks.quantizer import QuantizerData, QuantizerTask

        settings, run = getattr(config, name), config.run
        runtime = runtimes.create(run.device, settings.precision, run.threads)
        if name == "quantize":
            return QuantizerTask(settings, QuantizerData([self.table], [self.table]), runtime)
        if name in ("classify", "selector"):
            return ClassifierTask(settings, ClassifierData([self.table], [self.table], self.classes), runtime)
        side, codes = config.quantize.image_size // config.quantize.patch, config.quantize.codebook.codes
        table = str(Path(self.folder, f"codes-{side}-{codes}.parquet"))
        drawn = np.random.default_rng(0).integers(0, codes, size=(self.count, side * side))
        labels, views = np.arange(self.count) % self.classes, np.zeros(self.count, np.int32)
        keys = [f"{i:06d}" for i in range(self.count)]
        write_codes(table, keys, labels, views, drawn, CodeMeta("train", (side, side), codes, "measured"))
        data = PriorData([table], [table], self.classes, "measured", cache=str(Path(self.folder, "codes")))
        return PriorTask(settings, data, runtime)


def measure(task: Task) -> float:
    """Median of the seconds of a task's steps, batches included; the first two are not counted."""
    times: list[float] = []
    while len(times) < 5 or (len(times) < STEPS and sum(times) < SECONDS):
        began = time.perf_counter()
        batch = task.runtime.to_device(task.batch(len(times)), task.config.accumulate)
        with task.runtime.product_precision():
            figures = task.step(len(times), batch)
        float(figures["loss"])
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])
