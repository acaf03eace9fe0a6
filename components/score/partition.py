"""Sets of images that `score` measures, and their partition into shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.contract.api import Context, Inputs
from components.score.shards import NeighbourShard, RealShard, ReconstructionShard, SampleShard, Shard
from components.statistics.networks import DEVICE, classifier_spec, reference_spec
from vim_core.config import ScoreConfig
from vim_core.errors import ConfigError, DataError
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.features import FeatureSpec

SAMPLES = "samples"
ACCEPTED = "accepted-"
"""Prefix of the splits of `select`; the acceptance rate follows."""

CACHE_LIMIT = 200_000
"""Above this number of images their features are not cached, and the figure has no interval."""


@dataclass(frozen=True)
class ImageSet:
    """One image table of generated images: its files in order, and `sampling`, how they were drawn, for records."""

    name: str
    uris: tuple[str, ...]
    sampling: dict[str, Any]


def image_sets(config: ScoreConfig, inputs: Inputs, ctx: Context) -> list[ImageSet]:
    """The samples, or the images of `score.samples_from` in their place; then one set for each acceptance rate.

    Raises:
        DataError: the rates accepted unequal numbers of images, or the images from outside cannot be read.
    """
    sets = []
    if config.samples_from:
        from components.exchange import tables as exchange

        uri, images = config.samples_from, inputs["images"]
        classes = [str(name) for name in images.properties.get("classes", [])]
        max_pixels = int(images.manifest.config["max_pixels"])
        uris = exchange.import_table(uri, io.join(ctx.work, "outside"), classes, max_pixels)
        sets.append(ImageSet(SAMPLES, tuple(uris), {"from": uri, "state": exchange.table_state(uri)}))
    elif "samples" in inputs:
        samples = inputs["samples"]
        sets.append(ImageSet(SAMPLES, tuple(samples.uris("images/")), _sampling(samples.properties)))
    if "accepted" not in inputs:
        return sets
    selected = inputs["accepted"]
    splits = {str(name): int(count) for name, count in selected.properties["splits"].items()}
    if len(set(splits.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(splits.items()))
        raise DataError(f"score: select accepted unequal numbers of images ({counts}), whose figures would not compare")
    sampling = _sampling(selected.properties) | {"selector": str(selected.properties["selector"])}
    sampling = {key: value for key, value in sampling.items() if key not in ("rate", "rates")}
    for name in sorted(splits, key=lambda name: -float(name.removeprefix(ACCEPTED))):
        rate = {"acceptance": name.removeprefix(ACCEPTED)}
        sets.append(ImageSet(name, tuple(selected.uris(f"images/{name}-")), sampling | rate))
    return sets


def _sampling(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Temperature, guidance and filters, as the images' own artifact records them."""
    return {key: value for key, value in properties.get("protocol", {}).items() if key != "count"}


def pair_rank(key: str) -> int:
    """Rank of an image in the order in which real images are put into the two sets, 0 to 2^64 - 1."""
    from vim_core.data.image_tables import stable_hash

    return stable_hash("real pair", key) >> 192


def set_of(key: str, thresholds: tuple[int, int]) -> int:
    """0 or 1: the set of real images that an image belongs to; 2 for neither."""
    rank = pair_rank(key)
    return int(rank >= thresholds[0]) + int(rank >= thresholds[1])


def image_uris(inputs: Inputs) -> list[str]:
    """Image tables of the splits in `statistics.halves`, which are divided into the two sets."""
    splits = inputs["statistics"].properties["halves"]
    return [uri for split in splits for uri in inputs["images"].uris(f"images/{split}-")]


def rank_thresholds(inputs: Inputs, samples: int) -> tuple[int, int] | None:
    """Ranks below which as many real images lie as there are samples, and as both sides have together.

    Where there are too few images, both sets shrink in proportion; None where one would have fewer than two.
    """
    from vim_core.data.image_tables import ImageTable

    ranks = sorted(pair_rank(key) for uri in image_uris(inputs) for key in ImageTable([uri]).keys)
    first, second = set_sizes(samples, int(inputs["statistics"].properties["count"]), len(ranks))
    if min(first, second) < 2:
        return None
    return ranks[first], ranks[first + second] if first + second < len(ranks) else 1 << 64


def set_sizes(samples: int, real: int, available: int) -> tuple[int, int]:
    """Real images that stand for the samples, and for the real side, out of `available`."""
    if samples + real <= available:
        return samples, real
    first = min(max(available * samples // (samples + real), 2), available - 2)
    return first, available - first


def make_shards(config: ScoreConfig, inputs: Inputs, ctx: Context, sets: list[ImageSet]) -> list[Shard]:
    """Shards of reconstructions, of every set of generated images, and of real images against real ones."""
    shards: list[Shard] = [*reconstruction_shards(config, inputs, ctx)]
    samples = [shard for images in sets for shard in sample_shards(config, inputs, ctx, images)]
    totals = [shard.total for shard in samples if shard.set_name == SAMPLES]
    real = real_shards(config, inputs, ctx, totals[0]) if config.floor and totals else []
    return [*shards, *samples, *real]


def network_record(inputs: Inputs) -> dict[str, Any]:
    """The feature network as records name it: that of the statistics, else the classifier; empty for none."""
    if "statistics" in inputs:
        return dict(inputs["statistics"].properties["network"])
    return {"kind": "classifier", "digest": inputs["classifier"].digest} if "classifier" in inputs else {}


def feature_spec(inputs: Inputs, ctx: Context) -> FeatureSpec | None:
    """The same network as workers load it; None for none. Raises `ConfigError` if its weights are not configured."""
    from vim_core.features import CLASSIFIER, check_spec

    if "statistics" not in inputs:
        return classifier_spec(inputs["classifier"]) if "classifier" in inputs else None
    spec = reference_spec(inputs, ctx)
    if spec.network != CLASSIFIER:
        check_spec(spec)
    return spec


def reconstruction_shards(config: ScoreConfig, inputs: Inputs, ctx: Context) -> list[ReconstructionShard]:
    """One shard per table of reconstructions. Raises `DataError` for tables without their originals."""
    from components.engines.devices import beam_device

    images, reconstructions = inputs["images"], inputs["reconstructions"]
    prefix = "images/test-"
    originals = {entry.name for entry in images.manifest.files if entry.name.startswith(prefix)}
    names = sorted(entry.name for entry in reconstructions.manifest.files if entry.name.startswith(prefix))
    complete = not reconstructions.manifest.config.get("limit", 0)
    unpaired = (set(names) ^ originals) if complete else (set(names) - originals)
    if unpaired or not names:
        first = min(unpaired, default=f"{prefix}*")
        raise DataError(f"score: {first} is not both an original and a reconstruction: run reconstruct again")
    spec = feature_spec(inputs, ctx) if config.reconstructed or config.neighbours else None
    return [
        ReconstructionShard(
            name=name,
            originals=images.uri(name),
            reconstructions=reconstructions.uri(name),
            complete=complete,
            spec=spec,
            cache_features=bool(config.groups or config.neighbours),
            lpips=config.lpips_weights if config.lpips else "",
            lpips_sha256=config.lpips_sha256,
            lpips_device=beam_device(ctx.run) if config.lpips else DEVICE,
            **_common(config, inputs, ctx, "reconstructions", name),
        )
        for name in names
    ]


def sample_shards(config: ScoreConfig, inputs: Inputs, ctx: Context, images: ImageSet) -> list[SampleShard]:
    """One shard per table of a set of generated images; none without a feature network.

    Inception Score splits, feature samples and sFID are as in the statistics. Raises `ConfigError` if a convention
    needs the features of every image and the statistics keep fewer.
    """
    from vim_core.data.image_tables import open_parquet
    from vim_core.metrics.conventions import CONVENTIONS

    spec, rules = feature_spec(inputs, ctx), CONVENTIONS[config.protocol]
    if spec is None:
        return []
    rows = [int(open_parquet(uri).metadata.num_rows) for uri in images.uris]
    total = sum(rows)
    measured = inputs["statistics"].manifest.config if "statistics" in inputs else {}
    features = int(measured.get("features", 0))
    if rules.every and 0 < features < total:
        raise ConfigError(
            f"score.protocol={rules.name}: precision and recall look at all {total} samples, and "
            f"statistics.features={features} keeps fewer; raise it, or set 0 to leave these figures out"
        )
    classifier = inputs.get("classifier")
    return [
        SampleShard(
            set_name=images.name,
            samples=uri,
            weights=classifier.uri("model.safetensors") if classifier else "",
            config=classifier.uri("config.json") if classifier else "",
            spec=spec,
            splits=rules.split_count(total, int(measured.get("score_splits", 0))) if measured else 0,
            features=features,
            spatial=bool(measured.get("spatial", False)),
            protocol=config.protocol,
            first=sum(rows[:number]),
            total=total,
            cache_features=bool(config.groups or config.neighbours),
            **_common(config, inputs, ctx, images.name, f"{number:05d}", spec.device),
        )
        for number, uri in enumerate(images.uris)
    ]


def real_shards(config: ScoreConfig, inputs: Inputs, ctx: Context, samples: int) -> list[RealShard]:
    """One shard per table of real images; none without statistics or with too few images."""
    spec = feature_spec(inputs, ctx)
    if "statistics" not in inputs or spec is None:
        return []
    thresholds = rank_thresholds(inputs, samples)
    if thresholds is None:
        return []
    sizes = inputs["images"].properties["splits"]
    total = sum(sizes[split] for split in inputs["statistics"].properties["halves"])
    cache_features = config.groups > 0 and total <= CACHE_LIMIT
    return [
        RealShard(
            images=uri,
            thresholds=thresholds,
            spec=spec,
            cache_features=cache_features,
            **_common(config, inputs, ctx, "real", f"{number:05d}", spec.device),
        )
        for number, uri in enumerate(image_uris(inputs))
    ]


def neighbour_shards(
    config: ScoreConfig, inputs: Inputs, ctx: Context, queries: str, count: int, size: int
) -> list[NeighbourShard]:
    """One shard per table of training images in which the nearest to the queries are searched."""
    spec = feature_spec(inputs, ctx)
    if spec is None:
        return []
    return [
        NeighbourShard(
            images=uri,
            queries=queries,
            count=count,
            size=size,
            spec=spec,
            **_common(config, inputs, ctx, "neighbours", f"{number:05d}", spec.device),
        )
        for number, uri in enumerate(inputs["images"].uris("images/train-"))
    ]


def _common(
    config: ScoreConfig, inputs: Inputs, ctx: Context, part: str, name: str, device: str = DEVICE
) -> dict[str, Any]:
    """Fields of `Shard`; the folder of the result is named by the numeric class (contract 11)."""
    from components.engines.devices import beam_threads, numeric_folder

    threads = beam_threads(ctx.run)
    folder = io.join(ctx.work, numeric_folder(device, threads, config.batch, on_host=True), part)
    return {
        "result": io.join(folder, name.rsplit("/", 1)[-1].removesuffix(".parquet")),
        "batch": config.batch,
        "max_pixels": int(inputs["images"].manifest.config["max_pixels"]),
        "device": DEVICE,
        "threads": threads,
    }
