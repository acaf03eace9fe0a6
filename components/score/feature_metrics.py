"""Figures that need the features of single images: KID, precision and recall, density and coverage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from components.contract.api import Artifact, Inputs
from components.score import protocols
from components.score.figures import BOOTSTRAP, JACKKNIFE, WILSON, Figures
from components.score.names import Names
from components.score.sets import ImageSet
from components.statistics.shards import BATCH, FEATURES, whole
from vim_core.config import ScoreConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vim_core.metrics.precision_recall import FeatureSample

MOST = 10_000
"""Images a side at most that an interval of KID is taken from: every pair of them is looked at."""


def add(
    own: Figures,
    made: protocols.Made,
    sample: FeatureSample,
    of: ImageSet,
    inputs: Inputs,
    config: ScoreConfig,
    size: int,
) -> None:
    """Against the real images of the statistics' split and, where the reference file has images, against those."""
    from vim_core.metrics.feature_statistics import merge_files

    statistics = inputs["statistics"]
    split = str(statistics.properties["split"])
    real = merge_files([statistics.uri(whole(split, FEATURES))])
    named = config.protocol != ""
    x, y = sample.features, real.features
    if named:
        x, y = _ordered(sample, of.uris), _ordered(real, inputs["images"].uris(f"images/{split}-"))
    records = _Records(made, statistics, size)
    _compare(own, records, x, y, config)
    if any(entry.name == whole(BATCH, FEATURES) for entry in statistics.manifest.files):
        file = merge_files([statistics.uri(whole(BATCH, FEATURES))])
        keys = [f"{BATCH}-{place:08d}" for place in range(int(statistics.properties["reference"]["images"]))]
        _compare(
            own, _Records(made, statistics, size, to_file=True), x, _by(file, keys) if named else file.features, config
        )


class _Records:
    """The records of all figures of one comparison."""

    def __init__(self, made: protocols.Made, statistics: Artifact, size: int, to_file: bool = False) -> None:
        self.made, self.statistics, self.size, self.to_file = made, statistics, size, to_file
        self.names = Names.of(statistics.properties["network"])

    def of(self, figure: str, counts: tuple[int, int], kid: str) -> dict[str, Any]:
        record = protocols.of_features(self.made, self.statistics, counts, self.size, kid)[figure]
        return protocols.to_file(record, self.statistics, counts[1]) if self.to_file else record


def _compare(own: Figures, records: _Records, x: NDArray[Any], y: NDArray[Any], config: ScoreConfig) -> None:
    from vim_core.metrics.conventions import convention
    from vim_core.metrics.intervals import bootstrap_interval, wilson_interval
    from vim_core.metrics.kernel_distance import SEED, SUBSET_SIZE, SUBSETS, kernel_distance
    from vim_core.metrics.precision_recall import density_coverage, manifold_membership

    names, rule = records.names, convention(config.protocol)
    subset = SUBSET_SIZE if config.protocol else min(SUBSET_SIZE, len(x), len(y))
    kid = f"Bińkowski et al. 2018: mean over {SUBSETS} subsets of {subset}, (x·y / D + 1)^3, unbiased, seed {SEED}"

    def put(figure: str, value: float, interval: Any, how: str) -> None:
        record = records.of(figure, (len(x), len(y)), kid)
        own.put(record["figure"], value, record, interval, how)

    precise, recalled = manifold_membership(y, x)
    put(names.precision, float(precise.mean()), wilson_interval(int(precise.sum()), len(x)), WILSON)
    put(names.recall, float(recalled.mean()), wilson_interval(int(recalled.sum()), len(y)), WILSON)
    if rule.kernel:
        value, _ = kernel_distance(x, y, size=subset)
        put(names.kernel, value, *_interval(value, x, y, config.groups))
    if not rule.name:
        density, covered = density_coverage(y, x)
        put(names.density, float(density.mean()), bootstrap_interval(density), BOOTSTRAP)
        put(names.coverage, float(covered.mean()), wilson_interval(int(covered.sum()), len(y)), WILSON)


def _interval(value: float, x: NDArray[Any], y: NDArray[Any], groups: int) -> tuple[Any, str]:
    """The jackknife of KID over groups of both sides, of at most `MOST` images each."""
    from vim_core.metrics.intervals import jackknife_interval
    from vim_core.metrics.kernel_distance import leave_one_group_out

    if not groups or min(len(x), len(y)) < 2 * groups:
        return None, ""
    how = JACKKNIFE.format(groups=groups, fixed=f"of at most {MOST} images on both sides")
    return jackknife_interval(value, leave_one_group_out(x[:MOST], y[:MOST], groups)), how


def _ordered(sample: FeatureSample, uris: Any) -> NDArray[Any]:
    from vim_core.data.image_tables import ImageTable

    return _by(sample, ImageTable(list(uris)).keys)


def _by(sample: FeatureSample, keys: list[str]) -> NDArray[Any]:
    from vim_core.metrics.conventions import in_table_order

    return in_table_order(sample, keys)
