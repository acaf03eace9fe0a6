"""Train the image prior on a code table, or on images encoded as they come (stage 2)."""

from __future__ import annotations

from typing import Any

from components.contract import lineage
from components.contract.api import Artifact, Context, Inputs, Outcome
from components.contract.commands import command
from vim_core.config import PriorConfig
from vim_core.errors import ConfigError, LineageError
from vim_core.metrics.protocol import Protocol

VERSION = 2
INPUTS = {"codes": "tokenize", "tokenizer": "quantize", "images": "ingest?"}
CODES_OF = ("tokenizer",)
"""Inputs of which only the codes count: the tokenizer's decoder only makes pictures during training."""


def run(config: PriorConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Weights `model.safetensors`, shape `config.json`, curves, pictures of samples.

    Raises:
        LineageError: the codes were made by another encoder or codebook, or of other images than those to encode.
        ConfigError: `prior.source=images`, and the inputs have no images.
        VimError: the training failed; the message is the worker's reason.
    """
    from components.tokenize.plan import code_files
    from components.training.driver import train
    from vim_core.tasks.prior import PriorData

    codes, tokenizer = inputs["codes"], inputs["tokenizer"]
    properties = describe_prior(config, inputs)
    files = tokenizer.uri("model.safetensors"), tokenizer.uri("config.json")
    train_codes, test_codes = code_files(codes, "train"), code_files(codes, "test")
    classes = len(codes.properties["classes"])
    data = PriorData(train_codes, test_codes, classes, properties[lineage.TOKENIZER], files, cache=ctx.run.code_cache)
    if config.source == "images":
        data.images = training_images(inputs).uris("images/train-")
    outcome = train("vim_core.tasks.prior:PriorTask", config, data, ctx)
    outcome.properties |= properties
    outcome.protocols |= protocols(config, codes)
    return outcome


def describe_prior(config: PriorConfig, inputs: Inputs) -> dict[str, Any]:
    """The properties of a prior of these inputs: lineage, classes, and the conditions that it can sample under.

    Raises:
        LineageError: see `run`.
        ConfigError: `prior.source=images`, and the inputs have no images.
    """
    from components.tokenize.plan import check_tokenizer

    codes = inputs["codes"]
    check_tokenizer(codes, inputs["tokenizer"])
    made_from: dict[str, Any] = {}
    if config.source == "images":
        made_from = {"images": training_images(inputs).digest, "encode": inputs["tokenizer"].properties["encode"]}
    return {
        **lineage.recorded_digests(codes.properties),
        "codes": codes.digest,
        "source": config.source,
        **made_from,
        "conditional": config.conditional,
        "null_trained": not config.conditional or config.label_dropout > 0,
        "classes": list(codes.properties["classes"]) if config.conditional else [],
    }


def training_images(inputs: Inputs) -> Artifact:
    """The input images that `prior.source=images` encodes.

    Raises:
        ConfigError: the inputs have no images.
        LineageError: the held-out codes are of other images.
    """
    if "images" not in inputs:
        raise ConfigError("prior.source='images': needs ingest among the preset's components")
    images, made_from = inputs["images"], inputs["codes"].properties["images"]
    if images.digest != made_from:
        raise LineageError(
            f"the held-out codes were made from images {made_from[:12]}, but prior.source=images would train on "
            f"{images.digest[:12]}; run `{command('run', 'tokenize')}` for these images"
        )
    return images


def protocols(config: PriorConfig, codes: Artifact) -> dict[str, Any]:
    """The protocols of the two figures on held-out codes."""
    shared: dict[str, Any] = {
        "split": "test",
        "count": int(codes.properties["splits"]["test"]),
        "unit": "bits per token",
        "reference": "code table",
        "reference_digest": codes.digest,
        "notes": "plain view of each image",
    }
    condition = "given its label" if config.conditional else "without a label"
    nll = f"negative log2 likelihood of each held-out image's tokens under the prior, {condition}, mean over tokens"
    unigram = (
        "the same tokens under the frequencies of single codes in the train split, each counted once more than seen"
    )
    return {
        "nll_bits_per_token": Protocol(figure="nll_bits_per_token", compares=nll, **shared).record(),
        "unigram_bits_per_token": Protocol(figure="unigram_bits_per_token", compares=unigram, **shared).record(),
    }
