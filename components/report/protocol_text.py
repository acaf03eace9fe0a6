"""A metric's protocol in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def sentence(protocol: Mapping[str, Any]) -> str:
    """The protocol as a sentence: what is compared, on how many images of which split, and how samples were drawn."""
    if not protocol:
        return ""
    split, count = protocol.get("split", ""), protocol.get("count")
    compares = str(protocol.get("compares", ""))
    images = "samples" if split == "samples" else f"{split} images".strip()
    on = f"on {count:,} {images}" if isinstance(count, int) else f"on {images}" if split else ""
    against = ""
    if protocol.get("reference_count"):
        against = f"against {protocol['reference_count']:,} ({protocol['reference']})"
    drawn = ", ".join(sampling_choices(protocol.get("sampling", {})))
    text = ", ".join(part for part in (compares, " ".join(part for part in (on, against) if part)) if part)
    text = text[:1].upper() + text[1:]
    return f"{text}; drawn with {drawn}." if drawn else f"{text}." if text else ""


def sampling_choices(sampling: Mapping[str, Any]) -> list[str]:
    """The temperature, and guidance and filters where they are on, such as ['temperature 1', 'top-p 0.9']."""
    off = {"guidance": 1, "top_k": 0, "top_p": 1}
    names = [n for n in ("temperature", *off) if n in sampling and (n not in off or sampling[n] != off[n])]
    return [f"{name.replace('_', '-')} {sampling[name]:g}" for name in names]


def fields(protocol: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The protocol's fields as (name, text) pairs."""
    pairs = []
    for key, value in protocol.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
        pairs.append((key.replace("_", " "), text))
    return pairs
