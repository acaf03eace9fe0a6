"""Train a second classifier on the ingested images: it selects samples, and so never evaluates them."""

from __future__ import annotations

from components import classify
from components.contract.api import Context, Inputs, Outcome
from vim_core.config import SelectorConfig

VERSION = 1
INPUTS = {"images": "ingest"}


def run(config: SelectorConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """As `classify`, with settings of its own: weights `model.safetensors`, shape `config.json`, curves.

    Raises:
        VimError: the training failed; the message is the worker's reason.
    """
    return classify.run(config, inputs, ctx)
