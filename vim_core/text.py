"""Text for people: nearest names, dotted names of nested settings, durations."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from vim_core.errors import ConfigError

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name most like `name`, by the whole name or else by the last part of a dotted one; None if none is."""
    names = list(known)
    found = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    if found:
        return found[0]
    last = {each.rsplit(".", 1)[-1]: each for each in names}
    found = difflib.get_close_matches(name.rsplit(".", 1)[-1], list(last), n=1)
    return last[found[0]] if found else None


def hint(name: str, known: Iterable[str]) -> str:
    """For error messages: `did you mean X?`, or all known names where none is near."""
    names = list(known)
    near = nearest(name, names)
    return f"did you mean {near}?" if near else f"known are {', '.join(names) or 'none'}"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots; an empty mapping stays a value."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def duration(seconds: float) -> str:
    """Seconds as `8.4 s`, `2 min 5 s` or `3 h 20 min`; a dash where they are not finite."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def clock(seconds: float) -> str:
    """Seconds as a clock shows them: `2:05`, hours as `1:02:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def parse_duration(text: str, key: str) -> float:
    """Seconds of `7d`, `12h`, `30m`, `90s`, `2w` or `0`. Raises `ConfigError` that names `key` for anything else."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in SECONDS else (text, "s" if text == "0" else "")
    if not number.isdecimal() or not unit:
        raise ConfigError(f"{key}={text}: give a number and a unit (s, m, h, d or w), such as 7d")
    return float(number) * SECONDS[unit]
