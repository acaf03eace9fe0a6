"""Protocols and durations in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def sentence(protocol: Mapping[str, Any]) -> str:
    """A protocol in words: what is compared, on how many images of which split, and how samples were drawn."""
    if not protocol:
        return ""
    split, count = protocol.get("split", ""), protocol.get("count")
    what = str(protocol.get("compares", ""))
    where = "samples" if split == "samples" else f"{split} images".strip()
    on = f"on {count:,} {where}" if isinstance(count, int) else f"on {where}" if split else ""
    against = ""
    if protocol.get("reference_count"):
        against = f"against {protocol['reference_count']:,} ({protocol['reference']})"
    drawn = ", ".join(choices(protocol.get("sampling", {})))
    text = ", ".join(part for part in (what, " ".join(part for part in (on, against) if part)) if part)
    text = text[:1].upper() + text[1:]
    return f"{text}; drawn with {drawn}." if drawn else f"{text}." if text else ""


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def choices(sampling: Mapping[str, Any]) -> list[str]:
    """Temperature, and of guidance and filters those that are on; the details list the rest."""
    off = {"guidance": 1, "top_k": 0, "top_p": 1}
    names = [n for n in ("temperature", *off) if n in sampling and (n not in off or sampling[n] != off[n])]
    return [f"{name.replace('_', '-')} {sampling[name]:g}" for name in names]


def plain(protocol: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The record as (name, text) pairs."""
    out = []
    for key, value in protocol.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
        out.append((key.replace("_", " "), text))
    return out
