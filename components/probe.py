"""Linear probe of the prior: accuracy per block beside raw pixels, under the null class."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from components.contract import lineage
from components.contract.api import Artifact, Context, Inputs, Outcome
from vim_core.config import ProbeConfig, RunConfig
from vim_core.errors import ConfigError, LineageError
from vim_core.metrics.protocol import Protocol
from vim_core.storage import io

VERSION = 3
INPUTS = {"images": "ingest", "codes": "tokenize", "prior": "prior"}


def run(config: ProbeConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Accuracy of every block in `accuracy.json`, `accuracy.csv` and the metrics.

    Raises:
        LineageError: codes and prior belong to different tokenizers.
        ConfigError: the prior has no trained null class, so its features would need the true label.
        VimError: the training failed; the message is the worker's reason.
    """
    from components.tokenize.plan import code_files
    from components.training.driver import train
    from vim_core.tasks.probe_data import ProbeData

    images, codes, prior = inputs["images"], inputs["codes"], inputs["prior"]
    check(codes, prior)
    data = ProbeData(
        code_files(codes, "train"),
        code_files(codes, "test"),
        (prior.uri("model.safetensors"), prior.uri("config.json")),
        len(codes.properties["classes"]),
        images.uris("images/train-"),
        images.uris("images/test-"),
        ctx.run.code_cache,
    )
    trained = train("vim_core.tasks.probe:ProbeTask", config, data, ctx, local=trains_locally(ctx.run))
    metrics, properties = summarize_accuracy(json.loads(io.read_bytes(ctx.path("accuracy.json"))))
    by_figure = protocols(config, inputs)
    return Outcome(
        metrics=metrics,
        properties=trained.properties | properties,
        numeric=trained.numeric,
        protocols={figure: record for figure, record in by_figure.items() if figure in metrics},
        extras=trained.extras,
    )


def trains_locally(run: RunConfig) -> bool:
    """True if this process trains: starting a cluster takes longer than fitting a small probe."""
    return run.workers == 1 and not run.ray_address and run.device != "xla"


def check(codes: Artifact, prior: Artifact) -> None:
    """Refuse codes of another tokenizer, or a prior without a null class; see `run`."""
    made_by, trained_on = lineage.recorded_digests(codes.properties), lineage.recorded_digests(prior.properties)
    if not lineage.same_codes(made_by, trained_on):
        raise LineageError(
            f"codes {codes.digest[:12]} and prior {prior.digest[:12]} belong to different tokenizers: the codes "
            f"{lineage.mismatch(made_by, trained_on, 'belong to')}"
        )
    if not prior.properties["null_trained"]:
        raise ConfigError(
            "probe: the prior has neither a trained null class nor is it unconditional, and the true "
            "class must not reach the probe; set prior.label_dropout > 0 or prior.conditional=false"
        )


def summarize_accuracy(record: dict[str, Any]) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics and properties from the record of `accuracy.json`: every block, the best, baselines."""
    blocks = record["blocks"]
    accuracies = [float(block["accuracy"]) for block in blocks]
    best = _best(accuracies)
    chosen = _best([float(block["validation_accuracy"]) for block in blocks])
    metrics = {f"block_{index:02d}": value for index, value in enumerate(accuracies)}
    metrics |= {
        "best_block": float(best),
        "top1": accuracies[best],
        "chosen_block": float(chosen),
        "chosen_top1": accuracies[chosen],
    }
    ridge = [float(block["ridge"]["accuracy"]) for block in blocks if "ridge" in block]
    properties: dict[str, Any] = {"accuracy_per_block": accuracies, "blocks": blocks}
    if ridge:
        metrics["ridge_top1"] = max(ridge)
        properties["ridge_accuracy_per_block"] = ridge
    if "pixels" in record:
        metrics["pixel_baseline_top1"] = float(record["pixels"]["accuracy"])
        properties["pixels"] = record["pixels"]
    return metrics, properties


def _best(accuracies: list[float]) -> int:
    """The index of the highest accuracy, the first of equal ones."""
    return max(range(len(accuracies)), key=accuracies.__getitem__)


def protocols(config: ProbeConfig, inputs: Inputs) -> dict[str, Any]:
    """The protocols of the accuracies of blocks and of raw pixels."""
    images, codes, prior = inputs["images"], inputs["codes"], inputs["prior"]
    chosen = f"chosen on {config.validation_share:.0%} of the train images, then fitted on all of them"
    way = f"decorrelated with {config.decorrelate:g}" if config.decorrelate else "not decorrelated"
    softmax = (
        f"softmax regression by SGD with momentum {config.momentum:g}, {config.steps} steps of {config.batch}, "
        f"features standardised on train and {way}, learning rate and weight decay {chosen}"
    )
    ridge = f"least squares of one-hot labels on standardised features, penalty {chosen}"
    shared: dict[str, Any] = {"split": "test", "count": int(images.properties["splits"]["test"])}
    top1 = Protocol(
        figure="top1",
        compares="a linear layer's most likely class with the label, from the mean over tokens of one block's output",
        network="prior, fed with the null class",
        network_digest=prior.digest,
        reference="labels of the code table",
        reference_digest=codes.digest,
        notes=f"the block with the highest test accuracy, as in the paper's figure 3; {softmax}",
        **shared,
    )
    pixels = Protocol(
        figure="pixel_baseline_top1",
        compares=f"a linear layer's most likely class with the label, from raw pixels ({config.pixels} a side)",
        reference="labels of the image table",
        reference_digest=images.digest,
        notes=f"plain views; {softmax}",
        **shared,
    )
    others = {
        "chosen_top1": f"the block with the highest accuracy on the validation images; {softmax}",
        "ridge_top1": f"the block with the highest test accuracy; {ridge}",
    }
    records = [top1, pixels, *(replace(top1, figure=figure, notes=notes) for figure, notes in others.items())]
    return {protocol.figure: protocol.record() for protocol in records}
