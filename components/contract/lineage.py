"""Checks that inputs belong together: codes of one encoder (contract 3), one origin, evaluators are not selectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.contract.api import Artifact, Inputs
from vim_core.errors import LineageError

TOKENIZER, ENCODER = "tokenizer", "encoder"
"""Properties of what was made with a tokenizer: the artifact's digest, and that of the parts which make codes."""


def tokenizer_digests(tokenizer: Artifact) -> dict[str, str]:
    """Both digests of a quantize artifact; one made before encoders had digests of their own has the first alone."""
    digests = {TOKENIZER: tokenizer.digest}
    return digests | ({ENCODER: tokenizer.properties[ENCODER]} if ENCODER in tokenizer.properties else {})


def codes_digest(tokenizer: Artifact) -> str:
    """The digest of a tokenizer's encoder and codebook, which decide its codes; its own where that is unknown."""
    return str(tokenizer.properties.get(ENCODER, tokenizer.digest))


def recorded_digests(properties: Mapping[str, Any]) -> dict[str, str]:
    """Both digests, as the properties of an artifact made with a tokenizer or its codes hold them."""
    return {name: str(properties[name]) for name in (TOKENIZER, ENCODER) if name in properties}


def same_codes(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """True if equal images have equal codes under both: the same tokenizer, or the same encoder and codebook."""
    if one[TOKENIZER] == other[TOKENIZER]:
        return True
    return bool(one.get(ENCODER)) and one.get(ENCODER) == other.get(ENCODER)


def mismatch(one: Mapping[str, str], other: Mapping[str, str], kind: str) -> str:
    """Both sides' digests for an error message; `kind` says how the first belongs to its tokenizer."""
    text = f"{kind} tokenizer {one[TOKENIZER][:12]}, not {kind.split()[-1]} {other[TOKENIZER][:12]}"
    sides = [digests.get(ENCODER, "unknown")[:12] for digests in (one, other)]
    return text if sides == ["unknown"] * 2 else f"{text} (encoder and codebook {sides[0]}, not {sides[1]})"


def check_tokenizer(name: str, made: Artifact, tokenizer: Artifact, kind: str, remedy: str = "") -> None:
    """Raise `LineageError` unless an artifact was made with this encoder and codebook; `kind` as for `mismatch`."""
    recorded, expected = recorded_digests(made.properties), tokenizer_digests(tokenizer)
    if not same_codes(recorded, expected):
        raise LineageError(f"the {name} {made.digest[:12]} {mismatch(recorded, expected, kind)}{remedy}")


def check_same(component: str, kind: str, digests: Mapping[str, str], reference: str) -> None:
    """Raise `LineageError` unless all inputs of a component were made with the same artifact.

    Args:
        component: whose inputs they are, for the message.
        kind: what they were made with, such as `images` or `tokenizer`.
        digests: digest of that artifact by the name of the input.
        reference: the input whose digest the others must have.
    """
    for name, digest in digests.items():
        if digest != digests[reference]:
            raise LineageError(
                f"{component}: {name} was made with {kind} {digest[:12]}, {reference} with {digests[reference][:12]}: "
                "run the pipeline again so that both come from one"
            )


def check_evaluators(component: str, selector: str, inputs: Inputs) -> None:
    """Raise `LineageError` if the network that selected samples would also evaluate them (contract 8).

    Args:
        component: whose inputs they are, for the message.
        selector: digest of the network that selected: of its artifact, or the sha256 of its weight file.
        inputs: evaluators are `classifier` and the feature network of `statistics`, where they are among these.
    """
    evaluators: dict[str, set[str]] = {}
    if "classifier" in inputs:
        files = inputs["classifier"].manifest.files
        weights = {entry.sha256 for entry in files if entry.name == "model.safetensors"}
        evaluators["classifier"] = {inputs["classifier"].digest, *weights}
    if "statistics" in inputs:
        evaluators["statistics"] = {str(inputs["statistics"].properties["network"]["digest"])}
    for name, digests in evaluators.items():
        if selector in digests:
            raise LineageError(
                f"{component}: the network {selector[:12]} selected the samples, so it cannot evaluate them as {name}: "
                "select by another network, or train selector with another seed"
            )
