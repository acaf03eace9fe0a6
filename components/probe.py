"""Linear probe of the prior: accuracy per block beside raw pixels, under the null class."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from components import lineage
from components.api import Artifact, Context, Inputs, Outcome
from vim_core import io
from vim_core.config import ProbeConfig
from vim_core.errors import ConfigError, LineageError
from vim_core.metrics.protocol import Protocol

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
INPUTS = {"images": "ingest", "codes": "tokenize", "prior": "prior"}


def run(config: ProbeConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Accuracy of every block in `accuracy.json` and in the metrics.

    Raises:
        LineageError: codes and prior belong to different tokenizers.
        ConfigError: the prior has no trained null class, so its features would need the true label.
    """
    from components.ray_train import fit

    images, codes, prior = inputs["images"], inputs["codes"], inputs["prior"]
    check(codes, prior)
    target = io.join(ctx.work, "accuracy.json")
    arguments = {
        "config": config,
        "images": images,
        "codes": codes,
        "prior": prior,
        "threads": ctx.run.threads,
        "cache": ctx.run.code_cache,
        "target": target,
    }
    ctx.progress.start(1, "probe")
    how = fit(work, arguments, ctx, local=True)
    record = json.loads(io.read_bytes(target))
    io.write_bytes(ctx.path("accuracy.json"), json.dumps(record, indent=1).encode())
    ctx.progress.advance(1)
    return _outcome(record, config, how, inputs)


def check(codes: Artifact, prior: Artifact) -> None:
    """Refuse what does not fit together; see `run`."""
    made_by, trained_on = lineage.of_codes(codes.properties), lineage.of_codes(prior.properties)
    if not lineage.same_codes(made_by, trained_on):
        raise LineageError(
            f"codes {codes.digest[:12]} and prior {prior.digest[:12]} belong to different tokenizers: the codes "
            f"{lineage.difference(made_by, trained_on, 'belong to')}"
        )
    if not prior.properties["null_trained"]:
        raise ConfigError(
            "probe: the prior has neither a trained null class nor is it unconditional, and the true "
            "class must not reach the probe; set prior.label_dropout > 0 or prior.conditional=false"
        )


def work(arguments: dict[str, Any]) -> None:
    """In the Ray Train worker: features of all splits, one probe a block, one on pixels."""
    import torch

    from components.tokenizing.reading import code_files
    from vim_core.data.codes import CodeTable
    from vim_core.models.prior import load_prior
    from vim_core.runtime import resolve_threads
    from vim_core.tasks.probe import features, linear_probe

    config: ProbeConfig = arguments["config"]
    torch.set_num_threads(resolve_threads(arguments["threads"]))
    prior = load_prior(arguments["prior"].uri("model.safetensors"), arguments["prior"].uri("config.json"))
    codes, cache = arguments["codes"], arguments["cache"]
    train, test = (CodeTable(code_files(codes, split), cache) for split in ("train", "test"))
    classes = len(codes.properties["classes"])
    labels = [torch.as_tensor(table.labels, dtype=torch.int64) for table in (train, test)]
    held = [held_out(key, config) for key in train.keys]
    sets = [features(prior, torch.from_numpy(table.codes.astype("int64"))) for table in (train, test)]

    def probe(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, held: list[bool]) -> dict[str, float]:
        chosen = torch.tensor(held)
        result = linear_probe(
            (x, y),
            (x_test, y_test),
            classes,
            config.weight_decays,
            chosen,
            config.steps,
            config.batch,
            config.lr,
            config.seed,
        )
        return {"accuracy": result.accuracy, "weight_decay": result.weight_decay}

    blocks = [probe(x, labels[0], x_test, labels[1], held) for x, x_test in zip(*sets, strict=True)]
    (x, y, keys), (x_test, y_test, _) = (_pixels(arguments["images"], split) for split in ("train", "test"))
    pixels = probe(x, y, x_test, y_test, [held_out(key, config) for key in keys])
    record = {"blocks": blocks, "pixels": pixels}
    io.write_bytes(arguments["target"], json.dumps(record).encode())


def held_out(key: str, config: ProbeConfig) -> bool:
    """Whether a training image helps to choose the weight decay instead of fitting; all its views go the same way."""
    from vim_core.data.tables import hashed

    return hashed("probe", str(config.seed), key) % 10_000 < config.validation_share * 10_000


def _pixels(images: Artifact, split: str) -> tuple[Tensor, Tensor, list[str]]:
    from vim_core.config import AugmentConfig
    from vim_core.data.feed import ImageFeed

    size = min(images.properties.get("image_size") or [64])
    feed = ImageFeed(images.uris(f"images/{split}-"), size, AugmentConfig(), 0)
    return feed.plain(range(len(feed))).flatten(1), feed.labels, feed.table.keys


def _outcome(record: dict[str, Any], config: ProbeConfig, how: str, inputs: Inputs) -> Outcome:
    accuracies = [float(block["accuracy"]) for block in record["blocks"]]
    best = max(range(len(accuracies)), key=accuracies.__getitem__)
    metrics = {f"block_{index:02d}": value for index, value in enumerate(accuracies)}
    metrics |= {
        "best_block": float(best),
        "top1": accuracies[best],
        "pixel_baseline_top1": float(record["pixels"]["accuracy"]),
    }
    return Outcome(
        metrics=metrics,
        properties={"accuracy_per_block": accuracies, "blocks": record["blocks"], "trained_by": how},
        protocols=protocols(config, inputs),
    )


def protocols(config: ProbeConfig, inputs: Inputs) -> dict[str, Any]:
    """What the accuracies of blocks and of pixels mean."""
    images, codes, prior = inputs["images"], inputs["codes"], inputs["prior"]
    fit = (
        f"softmax regression by AdamW, {config.steps} steps of {config.batch}, features standardised on train, "
        f"weight decay chosen on {config.validation_share:.0%} of the train images"
    )
    shared: dict[str, Any] = {"split": "test", "count": int(images.properties["splits"]["test"])}
    blocks = Protocol(
        figure="top1",
        compares="a linear layer's most likely class with the label, from the mean over tokens of one block's output",
        network="prior, fed with the null class",
        network_digest=prior.digest,
        reference="labels of the code table",
        reference_digest=codes.digest,
        notes=f"the block with the highest test accuracy, as in the paper's figure 3; {fit}",
        **shared,
    )
    pixels = Protocol(
        figure="pixel_baseline_top1",
        compares="a linear layer's most likely class with the label, from raw pixels",
        reference="labels of the image table",
        reference_digest=images.digest,
        notes=fit,
        **shared,
    )
    return {"top1": blocks.record(), "pixel_baseline_top1": pixels.record()}
