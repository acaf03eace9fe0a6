"""What is done with the images of one shard: each is read and decoded once, and everything taken from it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from components.score import feature_cache
from components.score.shards import PARTS, ROUNDING_DB, Judged, Pair, RealPair, Search, paired_rows, part_file
from vim_core.storage import io

if TYPE_CHECKING:
    import torch

    from vim_core.data.image_tables import ImageTable
    from vim_core.data.images import Pixels
    from vim_core.features import FeatureExtractor
    from vim_core.losses.perceptual import Perceptual


def reconstructions(job: Pair) -> dict[str, Any]:
    """Per image: key, PSNR in dB, SSIM (none below its window's size), LPIPS if asked for; sums over both sides."""
    import numpy as np

    from components.statistics.shards import loaded
    from vim_core.data.image_tables import ImageTable
    from vim_core.data.images import center_crop, to_tensor
    from vim_core.metrics.reconstruction import WINDOW, psnr, ssim

    originals, made = ImageTable([job.originals]), ImageTable([job.reconstructions])
    rows = paired_rows(job.name, originals.keys, made.keys, job.whole)
    record: dict[str, Any] = {"keys": list(made.keys), "psnr_db": [], "ssim": [], "lpips": [], "size": 0}
    tap = loaded(job.tap) if job.tap is not None else None
    sides = [_Side(tap, job.result, name, job.keep) for name in ("made", "real")] if tap is not None else []
    for start in range(0, len(rows), job.batch):
        stop = min(start + job.batch, len(rows))
        again = _decoded(made, range(start, stop), job.max_pixels)
        y = to_tensor(np.stack(again))
        before = [center_crop(image, y.shape[-1]) for image in _decoded(originals, rows[start:stop], job.max_pixels)]
        x = to_tensor(np.stack(before))
        record["size"] = int(y.shape[-1])
        record["psnr_db"] += psnr(x, y).clamp(max=ROUNDING_DB).tolist()
        if min(y.shape[-2:]) >= WINDOW:
            record["ssim"] += ssim(x, y).tolist()
        if job.lpips:
            record["lpips"] += perceptual(job).per_image(y.to(job.lpips_device), x.to(job.lpips_device)).tolist()
        for side, images in zip(sides, (again, before), strict=False):
            side.add(made.keys[start:stop], images)
    for side in sides:
        side.close()
    return record


@functools.lru_cache(maxsize=1)
def _perceptual(uri: str, sha256: str, device: str) -> Perceptual:
    import torch

    from vim_core.losses.perceptual import Perceptual
    from vim_core.weights.published import VGG16, WeightFile, load_weights

    file = WeightFile(f"the file with sha256 {sha256}", sha256, VGG16.purpose) if sha256 else VGG16
    return Perceptual(load_weights(file, uri, "score.lpips_weights"), torch.device(device))


def perceptual(job: Pair) -> Perceptual:
    """One LPIPS network per process. Raises `DataError` for weights that are missing or others."""
    return _perceptual(job.lpips, job.lpips_sha256, job.lpips_device)


def samples(job: Judged) -> dict[str, Any]:
    """How many samples the classifier takes for their label; beside it what `Sums` sums, as npz files."""
    import torch

    from components.engines.devices import cached_classifier
    from components.statistics.shards import loaded
    from vim_core.data.image_tables import ImageTable
    from vim_core.features import extract_images
    from vim_core.metrics.conventions import convention
    from vim_core.metrics.feature_statistics import FeatureStatistics

    tap, rule = loaded(job.tap), convention(job.protocol)
    sums = FeatureStatistics(tap.dim, tap.classes, splits=job.splits, features=job.features, spatial=_spatial(job, tap))
    table = ImageTable([job.samples])
    labels = torch.tensor(table.labels)
    features, spatial = (
        feature_cache.Keeper(job.result, "kept", job.keep),
        feature_cache.Keeper(job.result, "kept-spatial", job.keep),
    )
    correct = 0
    for start in range(0, len(table), job.batch):
        rows = range(start, min(start + job.batch, len(table)))
        keys = table.keys[rows.start : rows.stop]
        images = _decoded(table, rows, job.max_pixels)
        taken = extract_images(tap, images)
        sums.add(
            keys, taken, rule.split_numbers(keys, job.first + start, job.total, job.splits) if job.splits else None
        )
        features.add(taken.features)
        if job.spatial:
            spatial.add(taken.spatial)
        if job.weights:
            predicted = _predicted(job, images, taken.logits)
            correct += int((predicted == labels[rows.start : rows.stop]).sum())
    features.close()
    spatial.close()
    if sums.count:  # a table of fewer samples than shards has empty ones
        wanted = zip(PARTS, (True, job.splits, job.features, _spatial(job, tap)), strict=True)
        for kind, part in zip([kind for kind, asked in wanted if asked], sums.parts(), strict=True):
            io.write_bytes(part_file(job.result, kind), part.to_bytes())
    labelled = int((labels >= 0).sum()) if job.weights else 0
    size = cached_classifier(job.weights, job.config, job.device).image_size if job.weights else tap.size
    return {"count": len(table), "labelled": labelled, "correct": correct, "size": size}


def real_pair(job: RealPair) -> dict[str, Any]:
    """Sums over the images of each of the two sets."""
    from components.statistics.shards import loaded
    from vim_core.data.image_tables import ImageTable

    tap, table = loaded(job.tap), ImageTable([job.images])
    record = {}
    for side, name in enumerate(("made", "real")):
        rows = [row for row, key in enumerate(table.keys) if side_of(key, job.cuts) == side]
        sums = _Side(tap, job.result, name, job.keep)
        for start in range(0, len(rows), job.batch):
            some = rows[start : start + job.batch]
            sums.add([table.keys[row] for row in some], _decoded(table, some, job.max_pixels))
        sums.close()
        record[name] = len(rows)
    return record


def side_of(key: str, cuts: tuple[int, int]) -> int:
    """0 or 1: which of two sets of real images an image belongs to; 2 for neither."""
    rank = pair_rank(key)
    return int(rank >= cuts[0]) + int(rank >= cuts[1])


def pair_rank(key: str) -> int:
    """Where an image stands in the order in which real images are put into two sets, 0 to 2^64 - 1."""
    from vim_core.data.image_tables import stable_hash

    return stable_hash("real pair", key) >> 192


def search(job: Search) -> dict[str, Any]:
    """The nearest images of this shard to each query: distances and keys in `<result>.npz`."""
    import numpy as np

    from components.statistics.shards import loaded
    from vim_core.data.image_tables import ImageTable
    from vim_core.data.images import center_crop
    from vim_core.features import extract_images
    from vim_core.metrics import npz
    from vim_core.metrics.distances import nearest

    tap, table = loaded(job.tap), ImageTable([job.images])
    queries = feature_cache.read(job.queries)
    parts = []
    for start in range(0, len(table), job.batch):
        rows = range(start, min(start + job.batch, len(table)))
        images = [center_crop(image, job.size) for image in _decoded(table, rows, job.max_pixels)]
        parts.append(extract_images(tap, images).features.numpy())
    vectors = np.concatenate([np.zeros((0, tap.dim), np.float32), *parts])
    distances, rows_found = nearest(queries, vectors, job.count)
    keys = np.array(table.keys or [""])[rows_found]
    io.write_bytes(f"{job.result}.npz", npz.pack(distances=distances, keys=keys))
    return {"count": len(table)}


class _Side:
    """Moments, and features if they are to be kept, of one of two sets of images."""

    def __init__(self, tap: FeatureExtractor, result: str, name: str, keep: bool) -> None:
        from vim_core.metrics.feature_statistics import FeatureStatistics

        self.tap, self.file = tap, part_file(f"{result}-{name}", "moments")
        self.sums, self.features = FeatureStatistics(tap.dim), feature_cache.Keeper(result, f"kept-{name}", keep)

    def add(self, keys: Sequence[str], images: Sequence[Pixels]) -> None:
        from vim_core.features import extract_images

        taken = extract_images(self.tap, images)
        self.sums.add(keys, taken)
        self.features.add(taken.features)

    def close(self) -> None:
        io.write_bytes(self.file, self.sums.parts()[0].to_bytes())
        self.features.close()


def _spatial(job: Judged, tap: FeatureExtractor) -> int:
    return tap.spatial if job.spatial else 0


def _predicted(job: Judged, images: Sequence[Pixels], logits: torch.Tensor) -> torch.Tensor:
    """The classifier's most likely classes; `logits` are the tap's, which may be the same network."""
    from components.engines.devices import cached_classifier
    from vim_core.features import CLASSIFIER, extract_images
    from vim_core.features.classifiers import ClassifierExtractor

    if job.tap.network == CLASSIFIER:
        return logits.argmax(dim=1)
    judge = ClassifierExtractor(cached_classifier(job.weights, job.config, job.device), "", job.device)
    return extract_images(judge, images).logits.argmax(dim=1)


def _decoded(table: ImageTable, rows: Sequence[int], max_pixels: int) -> list[Pixels]:
    return list(_each(table, rows, max_pixels))


def _each(table: ImageTable, rows: Sequence[int], max_pixels: int) -> Iterator[Pixels]:
    from vim_core.data.images import decode

    for row in rows:
        yield decode(table.image(row), max_pixels)
