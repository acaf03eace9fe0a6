"""Rejection sampling: a classifier keeps the samples it is surest of, as many at every acceptance rate (Beam)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from components.contract import lineage
from components.contract.api import Artifact, Context, Inputs, Outcome
from vim_core.config import SelectConfig
from vim_core.errors import LineageError
from vim_core.metrics.protocol import Protocol
from vim_core.storage import io

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from components.select.scores import Scores
    from vim_core.features.selectors import SelectorSpec

VERSION = 1
INPUTS = {"samples": "sample", "images": "ingest", "selector": "selector?"}

PICTURE = "pictures/accepted-beside-rejected.png"
RULE = "within a class the highest probabilities among the first count / rate candidates, by key; ties to the first"


def source_state(config: SelectConfig) -> str:
    """What lies outside the pipeline: the list of a network's classes. Raises `DataError` where it cannot be read."""
    from components.select.network import state_of

    return state_of(config.network)


def run(config: SelectConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Image tables `images/accepted-<rate>-NNNNN-of-NNNNN.parquet` and `scores.parquet` of all candidates.

    Finished shards of an earlier attempt are kept.

    Raises:
        ConfigError: there are fewer samples than the strictest rate needs, none has a class, or the network is not
            there or has other classes.
        DataError: the network's weights are not what they should be.
        LineageError: the selector was trained on other images.
    """
    from components.engines.beam.runner import run_shards
    from components.engines.devices import beam_device, beam_threads, numeric_folder
    from components.engines.shards import publish
    from components.select import network, scores, tables
    from vim_core.data.image_tables import ImageTable

    samples = inputs["samples"]
    classes = [str(name) for name in samples.properties["classes"]]
    spec = network.spec_of(config.network, inputs, classes, beam_device(ctx.run), "select")
    check(config, inputs, len(classes))
    about = network.described(spec)
    place = io.join(ctx.work, numeric_folder(spec.device, beam_threads(ctx.run), config.batch))
    measuring = score_jobs(config, inputs, spec, place, beam_threads(ctx.run))
    run_shards(ctx.run, measuring, scores.measure, scores.finished, ctx.progress)
    found = scores.read([job.result for job in measuring])
    kept = _accepted(config, found, len(classes))
    images = [job.images for job in measuring]
    writing = [
        job
        for rate in kept
        for job in tables.jobs_of(io.join(place, "accepted"), images, rate, kept[rate], config.shards)
    ]
    run_shards(ctx.run, writing, tables.write, tables.finished, ctx.progress)
    for job in writing:
        publish(ctx, job.result, job.name)
    scores.write(ctx.path("scores.parquet"), found)
    _show(config, ImageTable(images), found, len(classes), int(inputs["images"].manifest.config["max_pixels"]), ctx)
    return _outcome(config, inputs, about, found, kept, [(job.name, len(job.rows)) for job in writing], spec, ctx)


def check(config: SelectConfig, inputs: Inputs, classes: int) -> None:
    """Refuse what does not fit together or is too little, before anything is looked at; see `run`."""
    from vim_core.sampling.rejection import require_candidates

    samples, images = inputs["samples"], inputs["images"]
    if "selector" in inputs and config.network.name == "selector":
        trained_on = str(inputs["selector"].manifest.inputs["images"].digest)
        if trained_on != images.digest:
            raise LineageError(
                f"select: selector was trained on images {trained_on[:12]}, given are {images.digest[:12]}: "
                "run the pipeline again so that both come from one"
            )
    available = sum(int(count) for count in samples.properties["splits"].values()) // classes
    for rate in config.rates:
        require_candidates(available, classes, config.count, rate)


def score_jobs(config: SelectConfig, inputs: Inputs, spec: SelectorSpec, place: str, threads: int) -> list[Any]:
    """One job per shard of candidates, its result below `place`."""
    from components.select.scores import Job

    samples, limit = inputs["samples"], int(inputs["images"].manifest.config["max_pixels"])
    names = sorted(entry.name for entry in samples.manifest.files if entry.name.startswith("images/"))
    return [
        Job(io.join(place, name.rsplit("/", 1)[-1]), samples.uri(name), spec, config.batch, limit, threads)
        for name in names
    ]


def _accepted(config: SelectConfig, found: Scores, classes: int) -> dict[float, NDArray[np.int64]]:
    from vim_core.sampling.rejection import accept

    return accept(found.keys, found.labels, found.scores, classes, config.count, config.rates)


def _show(config: SelectConfig, table: Any, found: Scores, classes: int, max_pixels: int, ctx: Context) -> None:
    """The best beside the worst candidates of the strictest rate."""
    import numpy as np

    from components.select.tables import picture
    from vim_core.sampling.rejection import candidates_by_class, candidates_needed

    needed = candidates_needed(config.count, min(config.rates))
    rows = np.concatenate([rows[:needed] for rows in candidates_by_class(found.keys, found.labels, classes)])
    data = picture(table, found, rows, max_pixels)
    io.write_bytes(ctx.path(PICTURE), data)
    ctx.tracker.image("accepted-beside-rejected", data)


def _outcome(
    config: SelectConfig,
    inputs: Inputs,
    about: dict[str, Any],
    found: Scores,
    kept: dict[float, NDArray[np.int64]],
    written: list[tuple[str, int]],
    spec: SelectorSpec,
    ctx: Context,
) -> Outcome:
    from components.engines.devices import beam_threads
    from components.select.tables import split_of
    from vim_core.data.image_tables import ImageTable, image_digest

    files = {split_of(rate): [n for n, _ in written if n.startswith(f"images/{split_of(rate)}-")] for rate in kept}
    means = {f"score_{split_of(rate)}": float(found.scores[rows].mean()) for rate, rows in kept.items()}
    agreeing = {f"agreeing_{split_of(rate)}": float(found.likeliest[rows].mean()) for rate, rows in kept.items()}
    metrics = {"candidates": float(len(found.keys)), "agreeing": float(found.likeliest.mean()), **means, **agreeing}
    return Outcome(
        metrics={**metrics, "count": float(next(len(rows) for rows in kept.values()))},
        properties=_properties(config, inputs, about, kept),
        protocols=_protocols(
            inputs["samples"], about, {"": len(found.keys)} | {split_of(r): len(kept[r]) for r in kept}
        ),
        numeric={"device": spec.device, "dtype": "fp32", "threads": beam_threads(ctx.run)},
        rows=dict(written),
        extras=frozenset({PICTURE}),
        digest=image_digest({split: ImageTable([ctx.path(name) for name in names]) for split, names in files.items()}),
    )


def _properties(
    config: SelectConfig, inputs: Inputs, about: dict[str, Any], kept: dict[float, NDArray[np.int64]]
) -> dict[str, Any]:
    from components.select.tables import split_of

    samples = inputs["samples"]
    drawn = {name: value for name, value in samples.properties["protocol"].items() if name != "count"}
    return {
        "classes": samples.properties["classes"],
        **lineage.of_codes(samples.properties),
        "prior": samples.properties["prior"],
        "samples": samples.digest,
        "selector": about["digest"],
        "rates": list(kept),
        "splits": {split_of(rate): len(rows) for rate, rows in kept.items()},
        "protocol": {
            **drawn,
            "count": config.count * len(samples.properties["classes"]),
            "count_per_class": config.count,
            "rates": list(kept),
            "selector": about,
            "rule": RULE,
        },
    }


def _protocols(samples: Artifact, about: dict[str, Any], counts: dict[str, int]) -> dict[str, Any]:
    """Records of the selector's own figures: of all candidates (the empty name), and of each rate."""
    likeliest = "the selector's most likely class with the class the sample was drawn for"
    probability = "mean probability of the class the sample was drawn for, by the selector"
    wanted = {f"agreeing_{split}".rstrip("_"): (likeliest, split) for split in counts}
    wanted |= {f"score_{split}": (probability, split) for split in counts if split}
    shared = {
        "resize": about["preprocessing"],
        "network": about["name"],
        "network_digest": about["digest"],
        "sampling": {name: value for name, value in samples.properties["protocol"].items() if name != "count"},
        "notes": "by the network that selects: no measure of quality",
    }
    return {
        figure: Protocol(figure, compares, split or "samples", counts[split], **shared).record()
        for figure, (compares, split) in wanted.items()
    }
