"""Measuring one shard of `score`: each image is read and decoded once, and everything computed from it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from components.score.feature_cache import FeatureWriter, read_features
from components.score.real_vs_real import set_of
from components.score.shards import (
    ROUNDING_DB,
    SIDES,
    NeighbourShard,
    RealShard,
    ReconstructionShard,
    SampleShard,
    Shard,
    statistics_file,
)
from components.statistics.networks import cached_extractor
from components.statistics.shards import FEATURES, MOMENTS, SCORES, SPATIAL
from vim_core.errors import DataError
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.data.image_tables import ImageTable
    from vim_core.data.images import Pixels
    from vim_core.features import FeatureSpec
    from vim_core.losses.perceptual import Perceptual


def measure(shard: Shard) -> str:
    """Measure one shard, write `<result>.json` as the last act and return the shard's `result`."""
    from components.engines.devices import set_threads

    set_threads(shard.threads)
    functions: dict[type, Callable[[Any], dict[str, Any]]] = {
        ReconstructionShard: measure_reconstructions,
        SampleShard: measure_samples,
        RealShard: measure_real,
        NeighbourShard: find_neighbours,
    }
    record = functions[type(shard)](shard)
    io.write_bytes(f"{shard.result}.json", json.dumps(record, sort_keys=True).encode())
    return shard.result


def measure_reconstructions(shard: ReconstructionShard) -> dict[str, Any]:
    """Key, PSNR in dB, SSIM (none below its window's size) and LPIPS of each image; statistics of both sides."""
    import numpy as np

    from vim_core.data.image_tables import ImageTable
    from vim_core.data.images import center_crop, to_tensor
    from vim_core.metrics.reconstruction import WINDOW, psnr, ssim

    originals, reconstructions = ImageTable([shard.originals]), ImageTable([shard.reconstructions])
    rows = paired_rows(shard.name, originals.keys, reconstructions.keys, shard.complete)
    record: dict[str, Any] = {"keys": list(reconstructions.keys), "psnr_db": [], "ssim": [], "lpips": [], "size": 0}
    sides: list[_SideStatistics] = []
    if shard.spec is not None:
        sides = [_SideStatistics(shard.spec, shard.result, name, shard.cache_features) for name in SIDES]
    for start in range(0, len(rows), shard.batch):
        stop = min(start + shard.batch, len(rows))
        outputs = _decode(reconstructions, range(start, stop), shard.max_pixels)
        y = to_tensor(np.stack(outputs))  # [B, 3, S, S]
        inputs = [center_crop(image, y.shape[-1]) for image in _decode(originals, rows[start:stop], shard.max_pixels)]
        x = to_tensor(np.stack(inputs))
        record["size"] = int(y.shape[-1])
        record["psnr_db"] += psnr(x, y).clamp(max=ROUNDING_DB).tolist()
        if min(y.shape[-2:]) >= WINDOW:
            record["ssim"] += ssim(x, y).tolist()
        if shard.lpips:
            network = cached_perceptual(shard.lpips, shard.lpips_sha256, shard.lpips_device)
            record["lpips"] += network.per_image(y.to(shard.lpips_device), x.to(shard.lpips_device)).tolist()
        for side, images in zip(sides, (outputs, inputs), strict=False):
            side.add(reconstructions.keys[start:stop], images)
    for side in sides:
        side.close()
    return record


def paired_rows(name: str, originals: list[str], reconstructions: list[str], complete: bool) -> list[int]:
    """The originals' row of every reconstruction, by key. Raises `DataError` where keys do not match."""
    row_of = {key: row for row, key in enumerate(originals)}
    unknown = [key for key in reconstructions if key not in row_of]
    if unknown:
        raise DataError(
            f"{name}: reconstruction of {unknown[0]!r}, which is not in the originals: run reconstruct again"
        )
    missing = set(originals) - set(reconstructions)
    if complete and missing:
        first = min(missing)
        raise DataError(f"{name}: {len(missing)} images have no reconstruction, first {first!r}: run reconstruct again")
    if len(set(reconstructions)) != len(reconstructions):
        raise DataError(f"{name}: the same key was reconstructed twice: run reconstruct again")
    return [row_of[key] for key in reconstructions]


@functools.lru_cache(maxsize=1)
def cached_perceptual(uri: str, sha256: str, device: str) -> Perceptual:
    """One LPIPS network per process. Raises `DataError` for weights that are missing or others."""
    import torch

    from vim_core.losses.perceptual import Perceptual
    from vim_core.weights.published import VGG16, WeightFile, load_weights

    file = WeightFile(f"the file with sha256 {sha256}", sha256, VGG16.purpose) if sha256 else VGG16
    return Perceptual(load_weights(file, uri, "score.lpips_weights"), torch.device(device))


def measure_samples(shard: SampleShard) -> dict[str, Any]:
    """Number of samples that the classifier assigns to their label; statistics of the samples as npz files."""
    import torch

    from components.engines.devices import cached_classifier
    from vim_core.data.image_tables import ImageTable
    from vim_core.features import CLASSIFIER, extract_images
    from vim_core.features.classifiers import ClassifierExtractor
    from vim_core.metrics.conventions import convention
    from vim_core.metrics.feature_statistics import FeatureStatistics

    extractor, rules = cached_extractor(shard.spec), convention(shard.protocol)
    spatial_dim = extractor.spatial if shard.spatial else 0
    statistics = FeatureStatistics(
        extractor.dim, extractor.classes, splits=shard.splits, features=shard.features, spatial=spatial_dim
    )
    table = ImageTable([shard.samples])
    labels = torch.tensor(table.labels)
    features, spatial = (FeatureWriter(shard.result, name, shard.cache_features) for name in ("kept", "kept-spatial"))
    correct = 0
    for start in range(0, len(table), shard.batch):
        rows = range(start, min(start + shard.batch, len(table)))
        keys = table.keys[rows.start : rows.stop]
        images = _decode(table, rows, shard.max_pixels)
        outputs = extract_images(extractor, images)
        splits = rules.split_numbers(keys, shard.first + start, shard.total, shard.splits) if shard.splits else None
        statistics.add(keys, outputs, splits)
        features.add(outputs.features)
        if shard.spatial:
            spatial.add(outputs.spatial)
        if shard.weights:
            logits = outputs.logits
            if shard.spec.network != CLASSIFIER:
                network = cached_classifier(shard.weights, shard.config, shard.device)
                logits = extract_images(ClassifierExtractor(network, "", shard.device), images).logits
            correct += int((logits.argmax(dim=1) == labels[rows.start : rows.stop]).sum())
    features.close()
    spatial.close()
    if statistics.count:  # a table of fewer samples than shards has empty ones
        optional = ((SCORES, shard.splits), (FEATURES, shard.features), (SPATIAL, spatial_dim))
        kinds = [MOMENTS, *(kind for kind, wanted in optional if wanted)]
        for kind, part in zip(kinds, statistics.parts(), strict=True):
            io.write_bytes(statistics_file(shard.result, kind), part.to_bytes())
    labelled, size = 0, extractor.size
    if shard.weights:
        labelled = int((labels >= 0).sum())
        size = cached_classifier(shard.weights, shard.config, shard.device).image_size
    return {"count": len(table), "labelled": labelled, "correct": correct, "size": size}


def measure_real(shard: RealShard) -> dict[str, Any]:
    """Number of images in each of the two sets; statistics of both."""
    from vim_core.data.image_tables import ImageTable

    table = ImageTable([shard.images])
    record = {}
    for number, name in enumerate(SIDES):
        rows = [row for row, key in enumerate(table.keys) if set_of(key, shard.thresholds) == number]
        side = _SideStatistics(shard.spec, shard.result, name, shard.cache_features)
        for start in range(0, len(rows), shard.batch):
            some = rows[start : start + shard.batch]
            side.add([table.keys[row] for row in some], _decode(table, some, shard.max_pixels))
        side.close()
        record[name] = len(rows)
    return record


def find_neighbours(shard: NeighbourShard) -> dict[str, Any]:
    """The nearest images of the shard to each query: `distances` and `keys` [queries, count] in `<result>.npz`."""
    import numpy as np

    from vim_core.data.image_tables import ImageTable
    from vim_core.data.images import center_crop
    from vim_core.features import extract_images
    from vim_core.metrics import npz
    from vim_core.metrics.distances import nearest

    extractor, table = cached_extractor(shard.spec), ImageTable([shard.images])
    parts = [np.zeros((0, extractor.dim), np.float32)]
    for start in range(0, len(table), shard.batch):
        rows = range(start, min(start + shard.batch, len(table)))
        images = [center_crop(image, shard.size) for image in _decode(table, rows, shard.max_pixels)]
        parts.append(extract_images(extractor, images).features.numpy())
    distances, rows_found = nearest(read_features(shard.queries), np.concatenate(parts), shard.count)
    keys = np.array(table.keys or [""])[rows_found]
    io.write_bytes(f"{shard.result}.npz", npz.pack(distances=distances, keys=keys))
    return {"count": len(table)}


class _SideStatistics:
    """Moments, and cached features if wanted, of one of two sets of images."""

    def __init__(self, spec: FeatureSpec, result: str, name: str, cache_features: bool) -> None:
        from vim_core.metrics.feature_statistics import FeatureStatistics

        self.extractor, self.file = cached_extractor(spec), statistics_file(f"{result}-{name}", MOMENTS)
        self.statistics = FeatureStatistics(self.extractor.dim)
        self.features = FeatureWriter(result, f"kept-{name}", cache_features)

    def add(self, keys: Sequence[str], images: Sequence[Pixels]) -> None:
        from vim_core.features import extract_images

        outputs = extract_images(self.extractor, images)
        self.statistics.add(keys, outputs)
        self.features.add(outputs.features)

    def close(self) -> None:
        io.write_bytes(self.file, self.statistics.parts()[0].to_bytes())
        self.features.close()


def _decode(table: ImageTable, rows: Sequence[int], max_pixels: int) -> list[Pixels]:
    from vim_core.data.images import decode

    return [decode(table.image(row), max_pixels) for row in rows]
