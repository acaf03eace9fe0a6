"""Train the image prior on a code table (stage 2)."""

from __future__ import annotations

from components.api import Context, Inputs, Outcome
from vim_core.config import PriorConfig
from vim_core.errors import LineageError

VERSION = 1
INPUTS = {"codes": "tokenize", "tokenizer": "quantize"}


def run(config: PriorConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Weights `model.safetensors`, shape `config.json`, curves.

    Raises:
        LineageError: the codes were made by another tokenizer.
        VimError: the training failed; the message is the worker's reason.
    """
    from components.training import train
    from vim_core.tasks.prior import PriorData

    codes, tokenizer = inputs["codes"], inputs["tokenizer"]
    made_by = codes.properties["tokenizer"]
    if made_by != tokenizer.digest:
        raise LineageError(
            f"the code table {codes.digest[:12]} was made by tokenizer {made_by[:12]}, not by "
            f"{tokenizer.digest[:12]}; run `vimctl run tokenize` for this tokenizer"
        )
    classes = list(codes.properties["classes"])
    data = PriorData(codes.uris("codes/train-"), codes.uris("codes/test-"), len(classes), tokenizer.digest)
    outcome = train("vim_core.tasks.prior:PriorTask", config, data, ctx)
    outcome.properties |= {
        "tokenizer": tokenizer.digest,
        "codes": codes.digest,
        "conditional": config.conditional,
        "null_trained": not config.conditional or config.label_dropout > 0,
        "classes": classes if config.conditional else [],
    }
    condition = "given the label" if config.conditional else "unconditional"
    outcome.protocols |= {
        "nll_bits_per_token": {"split": "test", "view": 0, "condition": condition, "codes": codes.digest},
        "unigram_bits_per_token": {"fitted_on": "train", "split": "test", "view": 0, "smoothing": "add one"},
    }
    return outcome
