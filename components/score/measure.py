"""Measuring one shard of `score`: each image is read and decoded once, and everything computed from it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from components.score.feature_cache import read_features, write_features
from components.score.partition import set_of
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
    from torch import Tensor

    from vim_core.data.image_tables import ImageTable
    from vim_core.data.images import Pixels
    from vim_core.features import Features, FeatureSpec
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
    batches = _batches(shard, reconstructions, range(len(rows))), _batches(shard, originals, rows)
    for (_, keys, outputs), (_, _, sources) in zip(*batches, strict=True):
        y = to_tensor(np.stack(outputs))  # [B, 3, S, S]
        inputs = [center_crop(image, y.shape[-1]) for image in sources]
        x = to_tensor(np.stack(inputs))
        record["size"] = int(y.shape[-1])
        record["psnr_db"] += psnr(x, y).clamp(max=ROUNDING_DB).tolist()
        if min(y.shape[-2:]) >= WINDOW:
            record["ssim"] += ssim(x, y).tolist()
        if shard.lpips:
            network = cached_perceptual(shard.lpips, shard.lpips_sha256, shard.lpips_device)
            record["lpips"] += network.per_image(y.to(shard.lpips_device), x.to(shard.lpips_device)).tolist()
        for side, images in zip(sides, (outputs, inputs), strict=False):
            side.add(keys, images)
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
    from vim_core.weights.saving import VGG16, WeightFile, load_verified

    file = WeightFile(f"the file with sha256 {sha256}", sha256, VGG16.purpose) if sha256 else VGG16
    return Perceptual(load_verified(file, uri, "score.lpips_weights")[0], torch.device(device))


def evaluate(
    images: Sequence[Pixels], labels: Tensor, reference: FeatureSpec, classifier: FeatureSpec | None
) -> tuple[Features, Tensor]:
    """Outputs of the network of the statistics, and whether the classifier's likeliest class is the label, bool [N].

    Without a classifier no label is met. Where the network of the statistics is a classifier, it is this one.
    """
    import torch

    from components.engines.devices import cached_classifier
    from vim_core.features import CLASSIFIER, extract_images
    from vim_core.features.classifiers import ClassifierExtractor

    outputs = extract_images(cached_extractor(reference), images)
    if classifier is None:
        return outputs, torch.zeros(len(images), dtype=torch.bool)
    logits = outputs.logits
    if reference.network != CLASSIFIER:
        network = cached_classifier(classifier.weights, classifier.config, classifier.device)
        logits = extract_images(ClassifierExtractor(network, "", classifier.device), images).logits
    return outputs, logits.argmax(dim=1) == labels


def measure_samples(shard: SampleShard) -> dict[str, Any]:
    """Number of samples that the classifier assigns to their label; statistics of the samples as npz files."""
    import torch

    from components.engines.devices import cached_classifier
    from vim_core.data.image_tables import ImageTable
    from vim_core.features import CLASSIFIER, FeatureSpec
    from vim_core.metrics.conventions import CONVENTIONS
    from vim_core.metrics.feature_statistics import FeatureStatistics

    extractor, rules = cached_extractor(shard.spec), CONVENTIONS[shard.protocol]
    spatial_dim = extractor.spatial if shard.spatial else 0
    statistics = FeatureStatistics(
        extractor.dim, extractor.classes, splits=shard.splits, features=shard.features, spatial=spatial_dim
    )
    table = ImageTable([shard.samples])
    labels = torch.tensor(table.labels)
    classifier = FeatureSpec(CLASSIFIER, shard.weights, shard.config, device=shard.device) if shard.weights else None
    cached: dict[str, list[Any]] = {"kept": [], "kept-spatial": []}
    correct = 0
    for rows, keys, images in _batches(shard, table, range(len(table))):
        outputs, hits = evaluate(images, labels[rows], shard.spec, classifier)
        splits = rules.split_numbers(keys, shard.first + rows[0], shard.total, shard.splits) if shard.splits else None
        statistics.add(keys, outputs, splits)
        if shard.cache_features:
            cached["kept"].append(outputs.features.numpy())
            if shard.spatial and outputs.spatial is not None:
                cached["kept-spatial"].append(outputs.spatial.numpy())
        correct += int(hits.sum())
    for name, parts in cached.items():
        write_features(f"{shard.result}-{name}.npy", parts)
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
        for _, keys, images in _batches(shard, table, rows):
            side.add(keys, images)
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
    from vim_core.metrics.neighbours import nearest

    extractor, table = cached_extractor(shard.spec), ImageTable([shard.images])
    parts = [np.zeros((0, extractor.dim), np.float32)]
    for _, _, images in _batches(shard, table, range(len(table))):
        squares = [center_crop(image, shard.size) for image in images]
        parts.append(extract_images(extractor, squares).features.numpy())
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
        self.features_file, self.cache_features = f"{result}-kept-{name}.npy", cache_features
        self.cached: list[Any] = []

    def add(self, keys: Sequence[str], images: Sequence[Pixels]) -> None:
        from vim_core.features import extract_images

        outputs = extract_images(self.extractor, images)
        self.statistics.add(keys, outputs)
        if self.cache_features:
            self.cached.append(outputs.features.numpy())

    def close(self) -> None:
        io.write_bytes(self.file, self.statistics.parts()[0].to_bytes())
        write_features(self.features_file, self.cached)


def _batches(
    shard: Shard, table: ImageTable, rows: Sequence[int]
) -> Iterator[tuple[list[int], list[str], list[Pixels]]]:
    """Rows, keys and decoded images, `shard.batch` at a time."""
    from vim_core.data.images import decode

    for start in range(0, len(rows), shard.batch):
        some = list(rows[start : start + shard.batch])
        yield some, [table.keys[row] for row in some], [decode(table.image(row), shard.max_pixels) for row in some]
