"""Which codes belong together: those of one encoder and codebook, whatever decoder stands behind them (contract 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.contract.api import Artifact

TOKENIZER, ENCODER = "tokenizer", "encoder"
"""Properties of what was made with a tokenizer: the artifact's digest, and that of the parts which make codes."""


def of_tokenizer(tokenizer: Artifact) -> dict[str, str]:
    """Both digests of a quantize artifact; one made before encoders had digests of their own has the first alone."""
    found = {TOKENIZER: tokenizer.digest}
    return found | ({ENCODER: tokenizer.properties[ENCODER]} if ENCODER in tokenizer.properties else {})


def codes_identity(tokenizer: Artifact) -> str:
    """What a quantize artifact is to those who use its codes alone; its own digest where the other is unknown."""
    return str(tokenizer.properties.get(ENCODER, tokenizer.digest))


def of_codes(properties: Mapping[str, Any]) -> dict[str, str]:
    """Both digests as what was made with a tokenizer, or with its codes, recorded them."""
    return {name: str(properties[name]) for name in (TOKENIZER, ENCODER) if name in properties}


def same_codes(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether equal images have equal codes under both: the same tokenizer, or the same encoder and codebook."""
    if one[TOKENIZER] == other[TOKENIZER]:
        return True
    return bool(one.get(ENCODER)) and one.get(ENCODER) == other.get(ENCODER)


def difference(one: Mapping[str, str], other: Mapping[str, str], kind: str) -> str:
    """Both sides' digests for an error message; `kind` says how the first belongs to its tokenizer."""
    text = f"{kind} tokenizer {one[TOKENIZER][:12]}, not {kind.split()[-1]} {other[TOKENIZER][:12]}"
    sides = [found.get(ENCODER, "unknown")[:12] for found in (one, other)]
    return text if sides == ["unknown"] * 2 else f"{text} (encoder and codebook {sides[0]}, not {sides[1]})"
