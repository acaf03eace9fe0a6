"""Train a small classifier on the ingested images: judge of conditional accuracy, feature network of fd_classifier."""

from __future__ import annotations

from components.api import Context, Inputs, Outcome
from vim_core.config import ClassifyConfig

VERSION = 1
INPUTS = {"images": "ingest"}


def run(config: ClassifyConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Weights `model.safetensors`, shape `config.json`, curves.

    Raises:
        VimError: the training failed; the message is the worker's reason.
    """
    from components.training import train
    from vim_core.tasks.classifier import ClassifierData

    images = inputs["images"]
    classes = list(images.properties["classes"])
    data = ClassifierData(images.uris("images/train-"), images.uris("images/test-"), len(classes))
    outcome = train("vim_core.tasks.classifier:ClassifierTask", config, data, ctx, local=True)
    outcome.properties |= {"images": images.digest, "classes": classes, "features": config.features}
    outcome.protocols["test_accuracy"] = {"split": "test", "images": images.digest, "resize": config.image_size}
    return outcome
