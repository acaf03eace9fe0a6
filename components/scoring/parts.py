"""The work of `score` on one shard of images; results are kept as files, so that finished shards are not redone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vim_core import io
from vim_core.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from vim_core.data.tables import ImageTable
    from vim_core.taps import TapSpec

ROUNDING_DB = 58.9
"""PSNR of an image that differs only by the rounding to 8 bits: what an equal image counts as, instead of infinity."""


@dataclass(frozen=True)
class Pair:
    """One shard of reconstructions and the shard of originals behind it.

    `whole` says that every original of the shard was reconstructed; without it, reconstructions may be fewer.
    """

    result: str
    name: str
    originals: str
    reconstructions: str
    whole: bool
    batch: int
    max_pixels: int
    device: str
    threads: int


@dataclass(frozen=True)
class Judged:
    """One shard of samples, the classifier that judges them (or none) and what is summed over them.

    `tap` is the network of the statistics that they are compared with; `splits` and `features` as in `statistics`.
    """

    result: str
    name: str
    samples: str
    weights: str
    config: str
    batch: int
    max_pixels: int
    device: str
    threads: int
    tap: TapSpec
    splits: int = 0
    features: int = 0


def finished(job: Pair | Judged) -> bool:
    """Whether the shard's result was written by an earlier attempt."""
    return io.exists(f"{job.result}.json")


def load(result: str) -> dict[str, Any]:
    """The shard's result."""
    record: dict[str, Any] = json.loads(io.read_bytes(f"{result}.json"))
    return record


def measure(job: Pair | Judged) -> str:
    """Score one shard, write `<result>.json` (the last act) and give its name."""
    from components.beam_jobs import set_threads

    set_threads(job.threads)
    record = _reconstructions(job) if isinstance(job, Pair) else _samples(job)
    io.write_bytes(f"{job.result}.json", json.dumps(record, sort_keys=True).encode())
    return job.result


def _reconstructions(job: Pair) -> dict[str, Any]:
    """Per image: key, PSNR in dB and SSIM (none below its window's size)."""
    from vim_core.data.tables import ImageTable
    from vim_core.metrics.reconstruction import WINDOW, psnr, ssim

    originals, made = ImageTable([job.originals]), ImageTable([job.reconstructions])
    rows = paired_rows(job.name, originals.keys, made.keys, job.whole)
    record: dict[str, Any] = {"keys": list(made.keys), "psnr_db": [], "ssim": [], "size": 0}
    for start in range(0, len(rows), job.batch):
        stop = min(start + job.batch, len(rows))
        y = _batch(made, range(start, stop), 0, job.max_pixels)
        x = _batch(originals, rows[start:stop], y.shape[-1], job.max_pixels)
        record["size"] = int(y.shape[-1])
        record["psnr_db"] += psnr(x, y).clamp(max=ROUNDING_DB).tolist()
        if min(y.shape[-2:]) >= WINDOW:
            record["ssim"] += ssim(x, y).tolist()
    return record


def paired_rows(name: str, originals: list[str], made: list[str], whole: bool) -> list[int]:
    """The originals' row of every reconstruction, by key. Raises `DataError` where keys do not match."""
    row_of = {key: row for row, key in enumerate(originals)}
    strange = [key for key in made if key not in row_of]
    if strange:
        raise DataError(
            f"{name}: reconstruction of {strange[0]!r}, which is not in the originals: run reconstruct again"
        )
    missing = set(originals) - set(made)
    if whole and missing:
        first = min(missing)
        raise DataError(f"{name}: {len(missing)} images have no reconstruction, first {first!r}: run reconstruct again")
    if len(set(made)) != len(made):
        raise DataError(f"{name}: the same key was reconstructed twice: run reconstruct again")
    return [row_of[key] for key in made]


PARTS = ("moments", "inception_score", "features")
"""What may be summed over samples, each in a file of its own beside the shard's result."""


def part_file(result: str, kind: str) -> str:
    """Where a shard's sums of one kind lie."""
    return f"{result}.npz" if kind == "moments" else f"{result}-{kind}.npz"


def _samples(job: Judged) -> dict[str, Any]:
    """How many samples the classifier takes for their label; beside it what `Sums` sums, as npz files."""
    import torch

    from components.beam_jobs import classifier
    from components.measuring.shards import loaded
    from vim_core.data.images import decode
    from vim_core.data.tables import ImageTable
    from vim_core.metrics.sums import Sums

    tap = loaded(job.tap)
    sums = Sums(tap.dim, tap.classes, splits=job.splits, features=job.features)
    table = ImageTable([job.samples])
    labels = torch.tensor(table.labels)
    correct = 0
    for start in range(0, len(table), job.batch):
        rows = range(start, min(start + job.batch, len(table)))
        images = [decode(table.image(row), job.max_pixels) for row in rows]
        taken = tap.take(torch.stack([tap.prepare(image) for image in images]))
        sums.add(table.keys[rows.start : rows.stop], taken)
        if job.weights:
            predicted = _predicted(job, images, taken.logits)
            correct += int((predicted == labels[rows.start : rows.stop]).sum())
    if sums.count:  # a table of fewer samples than shards has empty ones
        kinds = [kind for kind, asked in zip(PARTS, (True, job.splits, job.features), strict=True) if asked]
        for kind, part in zip(kinds, sums.parts(), strict=True):
            io.write_bytes(part_file(job.result, kind), part.to_bytes())
    labelled = int((labels >= 0).sum()) if job.weights else 0
    size = classifier(job.weights, job.config, job.device).image_size if job.weights else tap.size
    return {"count": len(table), "labelled": labelled, "correct": correct, "size": size}


def _predicted(job: Judged, images: list[Any], logits: torch.Tensor) -> torch.Tensor:
    """The classifier's most likely classes; `logits` are the tap's, which may be the same network."""
    import torch

    from components.beam_jobs import classifier
    from vim_core.taps import CLASSIFIER
    from vim_core.taps.classifier import ClassifierTap

    if job.tap.network == CLASSIFIER:
        return logits.argmax(dim=1)
    judge = ClassifierTap(classifier(job.weights, job.config, job.device), "", job.device)
    return judge.take(torch.stack([judge.prepare(image) for image in images])).logits.argmax(dim=1)


def _batch(table: ImageTable, rows: range | list[int], size: int, max_pixels: int) -> torch.Tensor:
    """Images [N, 3, S, S] in [0, 1], brought to `size` as the pipeline does everywhere (0: as they are)."""
    import numpy as np

    from vim_core.data.images import to_tensor

    images: torch.Tensor = to_tensor(np.stack(list(_decoded(table, rows, size, max_pixels))))
    return images


def _decoded(table: ImageTable, rows: range | list[int], size: int, max_pixels: int) -> Iterator[np.ndarray[Any, Any]]:
    from vim_core.data.images import decode, square

    for row in rows:
        image = decode(table.image(row), max_pixels)
        yield square(image, size) if size else image
