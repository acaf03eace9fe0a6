"""A proposal as a YAML preset with a comment above each setting."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from components.proposal.choices import Choice, Proposal
from components.proposal.survey import Survey
from vim_core.text import duration

WIDTH = 110


def document(proposal: Proposal, found: Survey, file: str, minutes: float) -> str:
    """The text of the preset file; loading it gives the proposal's settings."""
    first = f"{found.source}: {describe(found)}"
    header = [
        *textwrap.wrap(first, WIDTH),
        "",
        "Source:    written by `vimctl init`; change what you know better.",
        f"Cost:      about {duration(proposal.seconds)} by steps measured here, of {minutes:g} minutes given.",
        f"Command:   vimctl run --preset {shlex.quote(file)}",
    ]
    lines = [f"# {line}".rstrip() for line in header]
    groups: dict[str, list[Choice]] = {}
    for choice in proposal.choices:
        groups.setdefault(choice.key.partition(".")[0], []).append(choice)
    for name, choices in groups.items():
        lines.append("")
        if choices[0].key == name:
            lines += _setting(choices[0], name, "")
            continue
        lines.append(f"{name}:")
        lines += _group(choices, name, "  ")
    return "\n".join(lines) + "\n"


def describe(found: Survey) -> str:
    """The survey in one line."""
    more = "" if found.complete else " or more"
    parts = [f"{found.listed:,}{more} images"]
    if found.classes:
        sizes = sorted(found.class_counts)
        spread = f"{sizes[0]:,}" if sizes[0] == sizes[-1] else f"{sizes[0]:,} to {sizes[-1]:,}"
        names = f"{len(found.classes)} classes" if len(found.classes) > 1 else f"one class, {found.classes[0]!r},"
        parts.append(f"{names} of {spread} each" if len(found.classes) > 1 else f"{names} of {spread}")
    else:
        parts.append("no classes")
    sides = f"{found.sides[0]}" if found.sides[0] == found.sides[-1] else f"{found.sides[0]} to {found.sides[-1]}"
    parts.append(f"{sides} pixels on the shorter side")
    colour = f"{found.colour:.0%} in colour" if 0 < found.colour < 1 else "in colour" if found.colour else "grey"
    parts.append(colour)
    if found.split == "folders":
        parts.append(f"{sum(found.held_out):,} of them held out by the source's own folders")
    if found.unusable:
        bad = found.unusable.total()
        parts.append(f"{bad:,} file{'s' * (bad != 1)} cannot be used")
    return ", ".join(parts)


def _group(choices: list[Choice], prefix: str, indent: str) -> Iterator[str]:
    """The settings of a group; groups inside it follow on their own lines."""
    opened: set[str] = set()
    for choice in choices:
        inner = choice.key.removeprefix(f"{prefix}.")
        head, dot, _ = inner.partition(".")
        if not dot:
            yield from _setting(choice, head, indent)
        elif head not in opened:
            opened.add(head)
            yield f"{indent}{head}:"
            same = [each for each in choices if each.key.startswith(f"{prefix}.{head}.")]
            yield from _group(same, f"{prefix}.{head}", indent + "  ")


def _setting(choice: Choice, name: str, indent: str) -> list[str]:
    reason = choice.reason[:1].upper() + choice.reason[1:]
    comment = [f"{indent}# {line}" for line in textwrap.wrap(reason, WIDTH - len(indent))]
    return [*comment, f"{indent}{name}: {_value(choice.value)}"]


def _value(value: Any) -> str:
    """The value as YAML on one line."""
    import yaml

    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_value(inner)}" for key, inner in value.items()) + "}"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).strip()
    return text.removesuffix("...").strip()
