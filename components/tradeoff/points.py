"""One point of a sweep: its figures with their intervals, from candidates that were drawn and looked at before."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.tradeoff.candidates import Cell, Drawing, by_class, column
from vim_core.config import TradeoffConfig
from vim_core.sampling.rejection import accepted, pool
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.metrics.moments import Moments

RESAMPLED = "fd_resampled"
"""Key of a point's own file that does not go to the published one."""


@dataclass(frozen=True)
class Measure:
    """What all points share: settings, how candidates lie, the reference, and the rows of every resample."""

    config: TradeoffConfig
    drawing: Drawing
    reference: Moments
    resamples: NDArray[np.int64]


def place_of(cell: Cell, rate: float) -> str:
    """Where a finished point is kept."""
    return f"{cell.folder}-a{float(rate)}.json"


def finished(cell: Cell, rate: float) -> bool:
    """Whether an earlier attempt measured this point."""
    return io.exists(place_of(cell, rate))


def read(cell: Cell, rate: float) -> dict[str, Any]:
    """The record of a finished point, its resampled distances beside the published fields."""
    record: dict[str, Any] = json.loads(io.read_bytes(place_of(cell, rate)))
    return record


def measure(cell: Cell, rates: list[float], shared: Measure) -> None:
    """Write the records of these rates of a cell whose candidates are all there."""
    config, drawing = shared.config, shared.drawing
    keys = [f"{row:012d}" for row in range(drawing.candidates)]
    labels = np.arange(drawing.candidates) % drawing.classes
    scores = column(cell, drawing, "scores")
    kept = accepted(keys, labels, scores, drawing.classes, config.count, rates)
    for rate, rows in kept.items():
        record = _record(cell, rate, by_class(rows, drawing.classes), shared)
        io.write_bytes(place_of(cell, rate), json.dumps(record).encode())


def _record(cell: Cell, rate: float, rows: NDArray[np.int64], shared: Measure) -> dict[str, Any]:
    from vim_core.metrics.frechet import frechet_distance
    from vim_core.metrics.inception_score import ScoreSums
    from vim_core.metrics.moments import Moments
    from vim_core.metrics.tradeoff import around, distances, inception_scores, wilson

    config = shared.config
    correct, features, logits = (column(cell, shared.drawing, name, rows) for name in ("correct", "features", "logits"))
    fd = frechet_distance(Moments.from_batch(features), shared.reference)
    score = ScoreSums.from_batch(logits, np.zeros(len(rows), np.int64), 1).score()[0]
    resampled = distances(features, shared.resamples, shared.reference)
    scores = inception_scores(logits, shared.resamples)
    share = wilson(int(correct.sum()), len(rows), config.confidence)
    return {
        "temperature": cell.temperature,
        "guidance": cell.guidance,
        "acceptance": rate,
        "count": len(rows),
        "candidates": pool(config.count, rate) * shared.drawing.classes,
        **_with_interval("accuracy", float(correct.mean()), share),
        **_with_interval("fd", fd, around(fd, resampled, config.confidence)),
        **_with_interval("is", score, around(score, scores, config.confidence)),
        RESAMPLED: resampled.tolist(),
    }


def _with_interval(name: str, value: float, ends: tuple[float, float] | None) -> dict[str, float]:
    """The figure, and where it has an interval its ends."""
    return {name: value} | ({} if ends is None else {f"{name}_low": ends[0], f"{name}_high": ends[1]})
