"""Rejection sampling: a classifier keeps its most confident samples, as many at every acceptance rate (Beam)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from components.contract import lineage
from components.contract.api import Artifact, Context, Inputs, Outcome
from vim_core.config import SelectConfig
from vim_core.metrics.protocol import Protocol
from vim_core.storage import io

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from components.select.scores import Scores, ScoreShard
    from vim_core.features.selectors import SelectorSpec

VERSION = 1
INPUTS = {"samples": "sample", "images": "ingest", "selector": "selector?"}

PICTURE = "pictures/accepted-beside-rejected.png"
RULE = "within a class the highest probabilities among the first count / rate candidates, by key; ties to the first"


def source_state(config: SelectConfig) -> str:
    """Text of the list of a network's classes, part of the fingerprint. Raises `DataError` where it cannot be read."""
    from components.select.network import class_list_digest

    return class_list_digest(config.network)


def run(config: SelectConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Image tables `images/accepted-<rate>-NNNNN-of-NNNNN.parquet` and `scores.parquet` of all candidates.

    Finished shards of an earlier attempt are kept.

    Raises:
        ConfigError: there are fewer samples than the strictest rate needs, none has a class, or the network is not
            there or has other classes.
        DataError: the network's weights do not have the expected hash.
        LineageError: the selector was trained on other images.
    """
    from components.engines.attempts import publish
    from components.engines.beam import run_shards
    from components.engines.devices import beam_device, beam_threads, numeric_folder
    from components.select import network, scores, tables
    from vim_core.sampling.rejection import accept

    samples, threads = inputs["samples"], beam_threads(ctx.run)
    classes = [str(name) for name in samples.properties["classes"]]
    spec = network.selector_spec(config.network, inputs, classes, beam_device(ctx.run), "select")
    check(config, inputs, len(classes))
    selector = network.describe(spec)
    folder = io.join(ctx.work, numeric_folder(spec.device, threads, config.batch))
    shards = score_shards(config, inputs, spec, folder, threads)
    run_shards(ctx.run, shards, scores.measure, scores.finished, ctx.progress)
    scored = scores.read([shard.result for shard in shards])
    rows = accept(scored.keys, scored.labels, scored.scores, len(classes), config.count, config.rates)
    images = [shard.images for shard in shards]
    written = [
        shard
        for rate in rows
        for shard in tables.table_shards(io.join(folder, "accepted"), images, rate, rows[rate], config.shards)
    ]
    run_shards(ctx.run, written, tables.write, tables.finished, ctx.progress)
    for shard in written:
        publish(ctx, shard.result, shard.name)
    scores.write(ctx.path("scores.parquet"), scored)
    _write_picture(config, images, scored, inputs, ctx)
    return _outcome(config, inputs, selector, scored, rows, {shard.name: len(shard.rows) for shard in written}, ctx)


def check(config: SelectConfig, inputs: Inputs, classes: int) -> None:
    """Raise unless the inputs belong together and there are enough candidates; see `run`."""
    from vim_core.sampling.rejection import require_candidates

    samples = inputs["samples"]
    if "selector" in inputs and config.network.name == "selector":
        digests = {"images": inputs["images"].digest, "selector": inputs["selector"].manifest.inputs["images"].digest}
        lineage.check_same("select", "images", digests, "images")
    available = sum(int(count) for count in samples.properties["splits"].values()) // classes
    for rate in config.rates:
        require_candidates(available, classes, config.count, rate)


def score_shards(
    config: SelectConfig, inputs: Inputs, spec: SelectorSpec, folder: str, threads: int
) -> list[ScoreShard]:
    """One shard of scores per shard of candidates, its result below `folder`."""
    from components.select.scores import ScoreShard

    samples, limit = inputs["samples"], int(inputs["images"].manifest.config["max_pixels"])
    names = sorted(entry.name for entry in samples.manifest.files if entry.name.startswith("images/"))
    return [
        ScoreShard(io.join(folder, name.rsplit("/", 1)[-1]), samples.uri(name), spec, config.batch, limit, threads)
        for name in names
    ]


def _write_picture(config: SelectConfig, images: list[str], scored: Scores, inputs: Inputs, ctx: Context) -> None:
    """The best beside the worst candidates of the strictest rate."""
    import numpy as np

    from components.select.tables import picture
    from vim_core.data.image_tables import ImageTable
    from vim_core.sampling.rejection import candidates_by_class, candidates_needed

    classes = len(inputs["samples"].properties["classes"])
    needed = candidates_needed(config.count, min(config.rates))
    rows = np.concatenate([rows[:needed] for rows in candidates_by_class(scored.keys, scored.labels, classes)])
    data = picture(ImageTable(images), scored, rows, int(inputs["images"].manifest.config["max_pixels"]))
    io.write_bytes(ctx.path(PICTURE), data)
    ctx.tracker.image("accepted-beside-rejected", data)


def _outcome(
    config: SelectConfig,
    inputs: Inputs,
    selector: dict[str, Any],
    scored: Scores,
    rows: dict[float, NDArray[np.int64]],
    written: dict[str, int],
    ctx: Context,
) -> Outcome:
    from components.engines.devices import beam_device, beam_threads
    from components.select.tables import split_name
    from vim_core.data.image_tables import ImageTable, image_digest

    samples = inputs["samples"]
    splits = {split_name(rate): chosen for rate, chosen in rows.items()}
    files = {split: [name for name in written if name.startswith(f"images/{split}-")] for split in splits}
    count = config.count * len(samples.properties["classes"])
    sampling = {name: value for name, value in samples.properties["protocol"].items() if name != "count"}
    return Outcome(
        metrics={
            "candidates": float(len(scored.keys)),
            "agreeing": float(scored.likeliest.mean()),
            **{f"score_{split}": float(scored.scores[chosen].mean()) for split, chosen in splits.items()},
            **{f"agreeing_{split}": float(scored.likeliest[chosen].mean()) for split, chosen in splits.items()},
            "count": float(count),
        },
        properties={
            "classes": samples.properties["classes"],
            **lineage.recorded_digests(samples.properties),
            "prior": samples.properties["prior"],
            "samples": samples.digest,
            "selector": selector["digest"],
            "rates": list(rows),
            "splits": {split: len(chosen) for split, chosen in splits.items()},
            "protocol": {
                **sampling,
                "count": count,
                "count_per_class": config.count,
                "rates": list(rows),
                "selector": selector,
                "rule": RULE,
            },
        },
        protocols=_protocols(
            samples, selector, {"": len(scored.keys)} | {split: len(chosen) for split, chosen in splits.items()}
        ),
        numeric={"device": beam_device(ctx.run), "dtype": "fp32", "threads": beam_threads(ctx.run)},
        rows=written,
        extras=frozenset({PICTURE}),
        digest=image_digest({split: ImageTable([ctx.path(name) for name in names]) for split, names in files.items()}),
    )


def _protocols(samples: Artifact, selector: dict[str, Any], counts: dict[str, int]) -> dict[str, Any]:
    """Records of the selector's own figures: of all candidates (the empty name), and of each rate."""
    likeliest = "the selector's most likely class with the class the sample was drawn for"
    probability = "mean probability of the class the sample was drawn for, by the selector"
    wanted = {f"agreeing_{split}".rstrip("_"): (likeliest, split) for split in counts}
    wanted |= {f"score_{split}": (probability, split) for split in counts if split}
    shared = {
        "resize": selector["preprocessing"],
        "network": selector["name"],
        "network_digest": selector["digest"],
        "sampling": {name: value for name, value in samples.properties["protocol"].items() if name != "count"},
        "notes": "by the network that selects: no measure of quality",
    }
    return {
        figure: Protocol(figure, compares, split or "samples", counts[split], **shared).record()
        for figure, (compares, split) in wanted.items()
    }
