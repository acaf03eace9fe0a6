"""Figures that need the features of single images: KID, precision and recall, density and coverage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from components.contract.api import Artifact, Inputs
from components.score import protocols
from components.score.figures import BOOTSTRAP, JACKKNIFE, WILSON, Figures
from components.score.image_sets import ImageSet
from components.statistics.networks import FigureNames
from components.statistics.shards import FEATURES, REFERENCE_IMAGES, merged_name
from vim_core.config import ScoreConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vim_core.metrics.precision_recall import FeatureSample

KID_INTERVAL_IMAGES = 10_000
"""Largest number of images a side for the interval of KID, which compares every pair of them."""


def add_feature_metrics(
    own: Figures,
    generated: protocols.Generated,
    sample: FeatureSample,
    images: ImageSet,
    inputs: Inputs,
    config: ScoreConfig,
    size: int,
) -> None:
    """Compare a set with the real images of the statistics' split and with the images of the reference file, if any."""
    from vim_core.data.image_tables import ImageTable
    from vim_core.metrics.conventions import in_table_order
    from vim_core.metrics.feature_statistics import merge_files

    statistics = inputs["statistics"]
    split = str(statistics.properties["split"])
    real = merge_files([statistics.uri(merged_name(split, FEATURES))])
    x, y = sample.features, real.features
    if config.protocol:
        x = in_table_order(sample, ImageTable(list(images.uris)).keys)
        y = in_table_order(real, ImageTable(inputs["images"].uris(f"images/{split}-")).keys)
    _add_comparison(own, generated, statistics, x, y, config, size)
    name = merged_name(REFERENCE_IMAGES, FEATURES)
    if any(entry.name == name for entry in statistics.manifest.files):
        reference = merge_files([statistics.uri(name)])
        count = int(statistics.properties["reference"]["images"])
        keys = [f"{REFERENCE_IMAGES}-{row:08d}" for row in range(count)]
        y = in_table_order(reference, keys) if config.protocol else reference.features
        _add_comparison(own, generated, statistics, x, y, config, size, to_file=True)


def _add_comparison(
    own: Figures,
    generated: protocols.Generated,
    statistics: Artifact,
    x: NDArray[Any],
    y: NDArray[Any],
    config: ScoreConfig,
    size: int,
    to_file: bool = False,
) -> None:
    """Add the figures of generated features x [M, D] against real ones y [N, D]."""
    from vim_core.metrics.conventions import convention
    from vim_core.metrics.intervals import bootstrap_interval, jackknife_interval, wilson_interval
    from vim_core.metrics.kernel_distance import SEED, SUBSET_SIZE, SUBSETS, kernel_distance, leave_one_group_out
    from vim_core.metrics.precision_recall import density_coverage, manifold_membership

    names, rules = FigureNames.of_network(statistics.properties["network"]), convention(config.protocol)
    subset = SUBSET_SIZE if config.protocol else min(SUBSET_SIZE, len(x), len(y))
    kid = f"Bińkowski et al. 2018: mean over {SUBSETS} subsets of {subset}, (x·y / D + 1)^3, unbiased, seed {SEED}"
    records = protocols.feature_records(generated, statistics, (len(x), len(y)), size, kid)

    def put(figure: str, value: float, interval: Any, method: str) -> None:
        record = records[figure]
        if to_file:
            record = protocols.reference_file_record(record, statistics, len(y))
        own.put(record["figure"], value, record, interval, method)

    precise, recalled = manifold_membership(y, x)
    put(names.precision, float(precise.mean()), wilson_interval(int(precise.sum()), len(x)), WILSON)
    put(names.recall, float(recalled.mean()), wilson_interval(int(recalled.sum()), len(y)), WILSON)
    if rules.kernel:
        value, _ = kernel_distance(x, y, size=subset)
        interval, method = None, ""
        if config.groups and min(len(x), len(y)) >= 2 * config.groups:
            most = KID_INTERVAL_IMAGES
            interval = jackknife_interval(value, leave_one_group_out(x[:most], y[:most], config.groups))
            method = JACKKNIFE.format(groups=config.groups, fixed=f"of at most {most} images on both sides")
        put(names.kernel, value, interval, method)
    if not rules.name:
        density, covered = density_coverage(y, x)
        put(names.density, float(density.mean()), bootstrap_interval(density), BOOTSTRAP)
        put(names.coverage, float(covered.mean()), wilson_interval(int(covered.sum()), len(y)), WILSON)
