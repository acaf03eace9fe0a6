"""Rejection sampling: a classifier keeps its most confident samples, as many at every acceptance rate (Beam)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from components.contract import lineage
from components.contract.api import Artifact, Context, Inputs, Outcome
from components.select import network
from vim_core.config import SelectConfig
from vim_core.metrics.protocol import Protocol
from vim_core.storage import io

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from components.select.shards import Scores

VERSION = 1
source_state = network.source_state
INPUTS = {"samples": "sample", "images": "ingest", "selector": "selector?"}

PICTURE = "pictures/accepted-beside-rejected.png"
RULE = "within a class the highest probabilities among the first count / rate candidates, by key; ties to the first"


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
    from components.select import shards
    from vim_core.data.image_tables import ImageTable
    from vim_core.sampling.rejection import accept, candidates_needed

    samples, threads = inputs["samples"], beam_threads(ctx.run)
    limit = int(inputs["images"].manifest.config["max_pixels"])
    classes = [str(name) for name in samples.properties["classes"]]
    spec = network.selector_spec(config.network, inputs, classes, beam_device(ctx.run), "select")
    check(config, inputs, len(classes))
    selector = network.describe(spec)
    folder = io.join(ctx.work, numeric_folder(spec.device, threads, config.batch))
    names = sorted(entry.name for entry in samples.manifest.files if entry.name.startswith("images/"))
    candidates = [
        shards.ScoreShard(
            io.join(folder, name.rsplit("/", 1)[-1]), samples.uri(name), spec, config.batch, limit, threads
        )
        for name in names
    ]
    run_shards(ctx.run, candidates, shards.measure, shards.finished, ctx.progress)
    scored = shards.read_scores([shard.result for shard in candidates])
    rows = accept(scored.keys, scored.labels, scored.scores, len(classes), config.count, config.rates)
    images = [shard.images for shard in candidates]
    accepted = [
        shard
        for rate in rows
        for shard in shards.table_shards(io.join(folder, "accepted"), images, rate, rows[rate], config.shards)
    ]
    run_shards(ctx.run, accepted, shards.write_table, shards.finished, ctx.progress)
    for shard in accepted:
        publish(ctx, shard.result, shard.name)
    shards.write_scores(ctx.path("scores.parquet"), scored)
    needed = candidates_needed(config.count, min(config.rates))
    picture = shards.picture(ImageTable(images), scored, len(classes), needed, limit)
    io.write_bytes(ctx.path(PICTURE), picture)
    ctx.tracker.image("accepted-beside-rejected", picture)
    return _outcome(config, samples, selector, scored, rows, {shard.name: len(shard.rows) for shard in accepted}, ctx)


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


def _outcome(
    config: SelectConfig,
    samples: Artifact,
    selector: dict[str, Any],
    scored: Scores,
    rows: dict[float, NDArray[np.int64]],
    written: dict[str, int],
    ctx: Context,
) -> Outcome:
    from components.engines.devices import beam_device, beam_threads
    from components.select.shards import split_name
    from vim_core.data.image_tables import ImageTable, image_digest

    splits = {split_name(rate): chosen for rate, chosen in rows.items()}
    tables = {
        split: ImageTable([ctx.path(name) for name in written if name.startswith(f"images/{split}-")])
        for split in splits
    }
    counts = {split: len(chosen) for split, chosen in splits.items()}
    count = config.count * len(samples.properties["classes"])
    sampling = {name: value for name, value in samples.properties["protocol"].items() if name != "count"}
    likeliest = "the selector's most likely class with the class the sample was drawn for"
    probability = "mean probability of the class the sample was drawn for, by the selector"
    measured = [("agreeing", likeliest, "samples", len(scored.keys))]
    measured += [(f"agreeing_{split}", likeliest, split, number) for split, number in counts.items()]
    measured += [(f"score_{split}", probability, split, number) for split, number in counts.items()]
    shared = {
        "resize": selector["preprocessing"],
        "network": selector["name"],
        "network_digest": selector["digest"],
        "sampling": sampling,
        "notes": "by the network that selects: no measure of quality",
    }
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
            "splits": counts,
            "protocol": {
                **sampling,
                "count": count,
                "count_per_class": config.count,
                "rates": list(rows),
                "selector": selector,
                "rule": RULE,
            },
        },
        protocols={
            figure: Protocol(figure, compares, split, number, **shared).record()
            for figure, compares, split, number in measured
        },
        numeric={"device": beam_device(ctx.run), "dtype": "fp32", "threads": beam_threads(ctx.run)},
        rows=written,
        extras=frozenset({PICTURE}),
        digest=image_digest(tables),
    )
