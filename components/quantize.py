"""Train the ViT-VQGAN tokenizer on an image table (stage 1)."""

from __future__ import annotations

from components.api import Context, Inputs, Outcome
from vim_core.config import QuantizeConfig

VERSION = 1
INPUTS = {"images": "ingest"}


def run(config: QuantizeConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Weights `model.safetensors`, settings `config.json`, curves and pictures of held-out reconstructions.

    Raises:
        VimError: the training failed; the message is the worker's reason.
    """
    from components.training import train
    from vim_core.tasks.quantizer import QuantizerData

    images = inputs["images"]
    data = QuantizerData(images.uris("images/train-"), images.uris("images/test-"))
    outcome = train("vim_core.tasks.quantizer:QuantizerTask", config, data, ctx)
    grid = config.image_size // config.patch
    outcome.properties |= {
        "images": images.digest,
        "image_size": config.image_size,
        "grid": [grid, grid],
        "vocabulary": config.codebook.codes,
        "encode": {"dtype": "fp32", "mode": "eager", "batch": config.encode_batch},
        "perceptual": config.loss.perceptual > 0 and bool(config.loss.perceptual_weights),
    }
    return outcome
