"""Artifacts for people and for programs: the rows of a list, a whole manifest, what the remover did."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components.artifacts.gc.collect import Collection
from components.artifacts.gc.plan import Removal
from components.artifacts.inventory import ArtifactKey, is_published
from components.artifacts.pins import Pin
from components.artifacts.resolve import short
from components.contract.api import Artifact, InputRecord
from vim_core.text import clock, flatten

COLUMNS = ("artifact", "digest", "created", "size", "time", "pinned", "reports")
UNITS = ("B", "kB", "MB", "GB", "TB")


def size(count: float) -> str:
    """Bytes for people, in powers of 1000: `1.2 GB`."""
    place = 0
    while count >= 999.5 and place < len(UNITS) - 1:
        count, place = count / 1000, place + 1
    return f"{count:.0f} {UNITS[place]}" if place == 0 or count >= 99.5 else f"{count:.1f} {UNITS[place]}"


def rows(
    made: Sequence[Artifact], pins: Mapping[ArtifactKey, Pin], reports: Mapping[str, list[InputRecord]]
) -> list[dict[str, Any]]:
    """Of every artifact what `list` says, as JSON."""
    return [
        {
            "component": each.manifest.component,
            "fingerprint": each.manifest.fingerprint,
            "digest": each.digest,
            "created": each.manifest.created,
            "bytes": sum(entry.bytes for entry in each.manifest.files),
            "seconds": each.manifest.seconds,
            "pinned": dataclasses.asdict(pin) if pin else None,
            "reports": [preset for preset, used in reports.items() if _shown(each, used)],
            "folder": each.folder,
        }
        for each in made
        for pin in [pins.get((each.manifest.component, each.manifest.fingerprint))]
    ]


def table(listed: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The same as lines of aligned columns, with a total at the end."""
    cells = [list(COLUMNS), *([*_cells(row)] for row in listed)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    for line in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
    yield f"{len(listed)} artifact{'' if len(listed) == 1 else 's'}, {size(sum(row['bytes'] for row in listed))}"


def manifest(made: Artifact, pin: Pin | None) -> Iterator[str]:
    """A manifest for people."""
    about = made.manifest
    yield f"{made.name}  version {about.version}"
    yield f"  digest   {made.digest}"
    yield f"  created  {about.created[:19]}, in {clock(about.seconds)}, attempt {about.attempt}"
    yield f"  folder   {made.folder}"
    if about.mlflow_run_id:
        yield f"  MLflow   {about.mlflow_run_id}"
    if pin:
        yield f"  pinned   {pin}"
    inputs = {role: f"{i.component}/{i.fingerprint}  digest {short(i.digest)}" for role, i in about.inputs.items()}
    figures = {key: f"{value:.6g}{_protocol(about.protocols.get(key))}" for key, value in about.metrics.items()}
    yield from _section("inputs", inputs)
    yield from _section("metrics", figures)
    yield from _section("config", {key: _word(value) for key, value in flatten(about.config).items()})
    yield from _section("properties", {key: _word(value) for key, value in flatten(about.properties).items()})
    yield from _section("numeric", {key: _word(value) for key, value in flatten(about.numeric).items()})
    files = {e.name: size(e.bytes) + (f", {e.rows:,} rows" if e.rows is not None else "") for e in about.files}
    yield from _section(f"files ({len(files)}, {size(sum(e.bytes for e in about.files))})", files)


def removed(done: Collection, delete: bool) -> Iterator[str]:
    """What was or would be removed, a line each, then the totals."""
    for each in done.removals:
        yield f"{each.kind:<10}  {size(each.bytes):>8}  {_what(each)}  ({each.reason})"
    for name in done.restored:
        yield f"put back    {name}  (it came to be needed meanwhile)"
    for name in done.busy:
        yield f"left        {name}  (somebody works on it, or it changed meanwhile)"
    totals = {kind: count for kind, count in done.totals().items() if count}
    kinds = "".join(f", {kind} {size(count)}" for kind, count in totals.items())
    yield f"{'freed' if delete else 'would free'} {size(sum(totals.values()))}{kinds}"
    if not delete and done.removals:
        yield "nothing was removed; --delete does it"


def removed_record(done: Collection, delete: bool) -> dict[str, Any]:
    """The same as JSON."""
    items = [
        {"kind": each.kind, "component": each.place[0], "fingerprint": each.place[1], "what": each.what,
         "bytes": each.bytes, "files": sorted(each.files), "reason": each.reason}
        for each in done.removals
    ]  # fmt: skip
    totals = done.totals()
    return {
        "deleted": delete, "bytes": sum(totals.values()), "bytes_by_kind": totals, "removals": items,
        "restored": done.restored, "busy": done.busy,
    }  # fmt: skip


def _shown(made: Artifact, used: Sequence[InputRecord]) -> bool:
    place = made.manifest.component, made.manifest.fingerprint
    return is_published(made, used) or any((record.component, record.fingerprint) == place for record in used)


def _cells(row: Mapping[str, Any]) -> Iterator[str]:
    yield f"{row['component']}/{short(row['fingerprint'])}"
    yield short(row["digest"])
    yield row["created"][:16].replace("T", " ")
    yield size(row["bytes"])
    yield clock(row["seconds"])
    yield row["pinned"]["by"] if row["pinned"] else "-"
    yield ", ".join(row["reports"]) or "-"


def _what(each: Removal) -> str:
    name = f"{each.place[0]}/{short(each.place[1])}"
    return name if each.version is not None or not each.what else f"{name} {each.what}"


def _protocol(protocol: Any) -> str:
    if not protocol:
        return ""
    given = protocol.items() if isinstance(protocol, dict) else [("protocol", protocol)]
    return "  (" + ", ".join(f"{key} {_word(value)}" for key, value in given) + ")"


def _section(title: str, entries: Mapping[str, str]) -> Iterator[str]:
    if entries:
        width = max(map(len, entries))
        yield title
        yield from (f"  {key:<{width}}  {value}" for key, value in entries.items())


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
