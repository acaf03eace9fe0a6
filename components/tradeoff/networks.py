"""Who looks at the candidates of a sweep: the selector, the judge, and the network of the reference statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from components.contract.api import Context, Inputs
from components.tradeoff.candidates import Eyes
from vim_core.errors import LineageError

if TYPE_CHECKING:
    from vim_core.features.selectors import SelectorSpec


def check_lineage(inputs: Inputs, who: str) -> None:
    """Raise `LineageError` unless judge, selector and statistics go back to the same images and classifier."""
    digests = {
        name: made.manifest.inputs["images"].digest
        for name, made in inputs.items()
        if name in ("classifier", "selector", "statistics")
    }
    for name, digest in digests.items():
        if digest != digests["classifier"]:
            raise LineageError(
                f"{who}: {name} was made with images {digest[:12]}, classifier with {digests['classifier'][:12]}: "
                "run the pipeline again so that both come from one"
            )
    network = inputs["statistics"].properties["network"]
    if network["kind"] == "classifier" and network["digest"] != inputs["classifier"].digest:
        raise LineageError(
            f"{who}: statistics was made with classifier {str(network['digest'])[:12]}, given is "
            f"{inputs['classifier'].digest[:12]}: run the pipeline again so that both come from one"
        )


def eyes(inputs: Inputs, ctx: Context, selector: SelectorSpec | None) -> Eyes:
    """The networks, loaded; without a selector every score is 0."""
    from components.select.network import loaded
    from components.statistics.shards import classifier_spec, reference_spec
    from vim_core.features import extract_images, load_extractor

    of_judge, of_statistics = classifier_spec(inputs["classifier"]), reference_spec(inputs, ctx)
    judge = load_extractor(of_judge)
    seen = judge if of_statistics == of_judge else load_extractor(of_statistics)
    chooser = loaded(selector) if selector is not None else None

    def select(pictures: list[Any], wanted: Any) -> Any:
        return np.zeros(len(pictures)) if chooser is None else chooser.judge(pictures, wanted)[0].numpy()

    def look(pictures: list[Any], wanted: Any) -> Any:
        taken = extract_images(judge, pictures)
        correct = (taken.logits.argmax(dim=1) == wanted).long().numpy()
        if seen is not judge:
            taken = extract_images(seen, pictures)
        return correct, taken.features.numpy(), taken.logits.numpy()

    return Eyes(select, look)
