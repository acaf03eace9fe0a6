"""Train a small classifier on the ingested images, for conditional accuracy and the features of fd_classifier."""

from __future__ import annotations

from components.contract.api import Context, Inputs, Outcome
from vim_core.config import ClassifyConfig
from vim_core.metrics.protocol import Protocol

VERSION = 2
INPUTS = {"images": "ingest"}


def run(config: ClassifyConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Weights `model.safetensors`, shape `config.json`, curves.

    Raises:
        VimError: the training failed; the message is the worker's reason.
    """
    from components.training.driver import train
    from vim_core.tasks.classifier import ClassifierData

    images = inputs["images"]
    classes = list(images.properties["classes"])
    data = ClassifierData(images.uris("images/train-"), images.uris("images/test-"), len(classes))
    outcome = train("vim_core.tasks.classifier:ClassifierTask", config, data, ctx, local=True)
    outcome.properties |= {"images": images.digest, "classes": classes, "features": config.features}
    outcome.protocols["test_accuracy"] = Protocol(
        figure="test_accuracy",
        compares="the classifier's most likely class with the image's label",
        split="test",
        count=int(images.properties["splits"]["test"]),
        resize=f"to {config.image_size} x {config.image_size} pixels",
        reference="labels of the image table",
        reference_digest=images.digest,
    ).record()
    return outcome
