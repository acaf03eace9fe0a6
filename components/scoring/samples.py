"""Figures of samples: which network looks at them, and what comes of comparing them with real images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from components.api import Artifact, Context, Inputs
from components.measuring.shards import DEVICE, FEATURES, HALVES, MOMENTS, SCORES, whole
from components.scoring import parts, protocols
from components.scoring.figures import Figures
from components.scoring.names import Names
from components.statistics import REFERENCE, read
from vim_core import io
from vim_core.errors import DataError

if TYPE_CHECKING:
    from vim_core.metrics.gaussian import Gaussian
    from vim_core.taps import TapSpec

BLOCK = 64
"""Images of a batch file in memory at once."""


def network_of(inputs: Inputs) -> dict[str, Any]:
    """The network that samples are looked at through: that of the statistics, else the classifier; empty for none."""
    if "statistics" in inputs:
        return dict(inputs["statistics"].properties["network"])
    return {"kind": "classifier", "digest": inputs["classifier"].digest} if "classifier" in inputs else {}


def tap_of(inputs: Inputs, ctx: Context) -> TapSpec | None:
    """The same as workers load it."""
    from components.beam_jobs import device_of
    from vim_core.taps import CLASSIFIER, TapSpec, check

    network = network_of(inputs)
    if not network:
        return None
    if network["kind"] == CLASSIFIER:
        made = inputs["classifier"]
        return TapSpec(CLASSIFIER, made.uri("model.safetensors"), made.uri("config.json"), made.digest, device=DEVICE)
    size = int(inputs["statistics"].manifest.config["image_size"])
    weights, device = ctx.pipeline.statistics.weights, device_of(ctx.run)
    spec = TapSpec(network["kind"], weights, sha256=network["digest"], image_size=size, device=device)
    check(spec)
    return spec


def asked(inputs: Inputs) -> dict[str, int]:
    """Splits of the Inception Score and images for precision and recall, as the statistics were made."""
    config = inputs["statistics"].manifest.config if "statistics" in inputs else {}
    return {"splits": int(config.get("score_splits", 0)), "features": int(config.get("features", 0))}


def add_samples(figures: Figures, judged: list[parts.Judged], inputs: Inputs, ctx: Context) -> None:
    """Put the shards together: files `moments/samples.npz` and, if asked for, `inception_score/…` and `features/…`."""
    from vim_core.metrics.parts import merged

    records = [parts.load(job.result) for job in judged]
    count = sum(record["count"] for record in records)
    filled = [job.result for job, record in zip(judged, records, strict=True) if record["count"]]
    kinds = [MOMENTS, *(kind for kind, n in ((SCORES, judged[0].splits), (FEATURES, judged[0].features)) if n)]
    sums = {kind: merged(parts.part_file(result, kind) for result in filled) for kind in kinds}
    for kind, part in sums.items():
        io.write_bytes(ctx.path(whole("samples", kind)), part.to_bytes())
    figures.metrics["samples"] = float(count)
    size = int(records[0]["size"])
    if judged[0].weights and all(record["labelled"] == record["count"] for record in records):
        accuracy = sum(record["correct"] for record in records) / count
        record = protocols.of_samples(inputs["samples"], inputs["classifier"], count, size)
        figures.add({"conditional_accuracy": accuracy}, {"conditional_accuracy": record})
    if "statistics" in inputs:
        _add_distance(figures, sums[MOMENTS], inputs["samples"], inputs["statistics"], size)
        _add_score(figures, sums, inputs["samples"], inputs["statistics"], size)
        _add_coverage(figures, sums, inputs["samples"], inputs["statistics"], size)


def _add_distance(figures: Figures, moments: Any, samples: Artifact, statistics: Artifact, size: int) -> None:
    from vim_core.metrics.frechet import frechet_distance

    files = dict(zip(("half_0", "half_1"), HALVES, strict=True)) | {"real": whole(str(statistics.properties["split"]))}
    sets = {name: read(statistics.uri(path)) for name, path in files.items()}
    name = Names.of(statistics.properties["network"]).distance
    values = {
        name: frechet_distance(moments, sets["real"]),
        f"{name}_real_vs_real": frechet_distance(sets["half_0"], sets["half_1"]),
    }
    counts = {name: value.count for name, value in sets.items()} | {"samples": moments.count}
    records = protocols.of_distance(samples, statistics, counts, size)
    if "reference" in statistics.properties:
        values[f"{name}_reference"] = frechet_distance(moments, _reference(statistics))
        records[f"{name}_reference"] = protocols.of_reference(samples, statistics, moments.count, size)
    figures.add(values, records)


def _reference(statistics: Artifact) -> Gaussian:
    from vim_core.metrics.reference import read_reference

    with io.fetched(statistics.uri(REFERENCE)) as path:
        found = read_reference(path).gaussian
    if found is None:
        raise DataError(f"{statistics.uri(REFERENCE)} has no statistics: run statistics again with --force")
    return found


def _add_score(figures: Figures, sums: dict[str, Any], samples: Artifact, statistics: Artifact, size: int) -> None:
    if SCORES not in sums:
        return
    name = Names.of(statistics.properties["network"]).score
    record = protocols.of_score(samples, statistics, sums[SCORES], size)
    values = dict(zip((name, f"{name}_std"), sums[SCORES].score(), strict=True))
    figures.add(values, {each: record | {"figure": each} for each in values})


def _add_coverage(figures: Figures, sums: dict[str, Any], samples: Artifact, statistics: Artifact, size: int) -> None:
    from vim_core.metrics.parts import merged
    from vim_core.metrics.precision_recall import precision_recall

    if FEATURES not in sums:
        return
    names = Names.of(statistics.properties["network"])
    real = merged([statistics.uri(whole(str(statistics.properties["split"]), FEATURES))])
    values = dict(
        zip((names.precision, names.recall), precision_recall(real.features, sums[FEATURES].features), strict=True)
    )
    counts = {"samples": sums[FEATURES].count, "real": real.count}
    figures.add(values, protocols.of_coverage(samples, statistics, counts, size))


def write_batch_file(samples: Artifact, ctx: Context, max_pixels: int) -> None:
    """All samples as one npz that guided-diffusion's evaluator reads, `batch.npz`, in the order of their tables.

    Raises `DataError` for samples of unequal sizes.
    """
    from vim_core.data.images import decode
    from vim_core.data.tables import ImageTable
    from vim_core.metrics.reference import write_batch

    table = ImageTable(samples.uris("images/"))
    if not len(table):
        raise DataError("score.batch_file: there is no sample to write")
    height, width, channels = decode(table.image(0), max_pixels).shape

    def blocks() -> Iterator[Any]:
        import numpy as np

        for start in range(0, len(table), BLOCK):
            images = [decode(table.image(row), max_pixels) for row in range(start, min(start + BLOCK, len(table)))]
            odd = next((image.shape for image in images if image.shape != (height, width, channels)), None)
            if odd is not None:
                raise DataError(f"score.batch_file: samples of {odd} and {(height, width, channels)} in one file")
            yield np.stack(images)

    with io.staged(ctx.path("batch.npz")) as path:
        write_batch(str(path), blocks(), (len(table), height, width, channels))
