"""Artifacts as text for people and as JSON: lists, headline figures, manifests, collections."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components.artifacts.gc import Collection
from components.artifacts.inventory import is_published, short, short_name
from components.artifacts.usage import Pin
from components.contract.api import Artifact, ArtifactKey, InputRecord
from vim_core.text import clock, flatten

COLUMNS = ("artifact", "digest", "created", "size", "time", "pinned", "reports")
UNITS = ("B", "kB", "MB", "GB", "TB")
VALUE_LENGTH = 100
HEADLINES = {
    "ingest": ("train", "test", "dead_letter"),
    "classify": ("test_accuracy",),
    "selector": ("test_accuracy",),
    "statistics": ("count",),
    "quantize": ("test_psnr_db",),
    "tokenize": ("images", "tokens"),
    "reconstruct": ("images",),
    "prior": ("nll_bits_per_token", "unigram_bits_per_token"),
    "sample": ("count", "images_per_s"),
    "select": ("candidates", "agreeing", "count"),
    "score": ("psnr_db", "codebook_usage", "conditional_accuracy", "fd_classifier", "fid", "is"),
    "tradeoff": ("points", "best_fd", "best_guidance", "best_guidance_low", "best_guidance_high"),
    "probe": ("best_block", "top1", "pixel_baseline_top1"),
}
"""Metrics shown in the terminal and as columns of a pipeline's MLflow run, by component."""


def size(count: float) -> str:
    """Bytes for people, in powers of 1000: `1.2 GB`."""
    unit = 0
    while count >= 999.5 and unit < len(UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.0f} {UNITS[unit]}" if unit == 0 or count >= 99.5 else f"{count:.1f} {UNITS[unit]}"


def rows(
    artifacts: Sequence[Artifact], pins: Mapping[ArtifactKey, Pin], reports: Mapping[str, list[InputRecord]]
) -> list[dict[str, Any]]:
    """The rows of a list as JSON; `reports` names the artifacts of each report."""
    return [
        {
            "component": artifact.manifest.component,
            "fingerprint": artifact.manifest.fingerprint,
            "digest": artifact.digest,
            "created": artifact.manifest.created,
            "bytes": artifact.size,
            "seconds": artifact.manifest.seconds,
            "pinned": dataclasses.asdict(pin) if pin else None,
            "reports": [
                preset
                for preset, records in reports.items()
                if is_published(artifact, records) or any(record.key == artifact.manifest.key for record in records)
            ],
            "folder": artifact.folder,
        }
        for artifact in artifacts
        for pin in [pins.get(artifact.manifest.key)]
    ]


def table(listed: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The same rows as lines of aligned columns, with a total at the end."""
    cells = [list(COLUMNS)]
    cells += [
        [
            short_name((row["component"], row["fingerprint"])), short(row["digest"]),
            row["created"][:16].replace("T", " "), size(row["bytes"]), clock(row["seconds"]),
            row["pinned"]["by"] if row["pinned"] else "-", ", ".join(row["reports"]) or "-",
        ]
        for row in listed
    ]  # fmt: skip
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    for line in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
    yield f"{len(listed)} artifact{'' if len(listed) == 1 else 's'}, {size(sum(row['bytes'] for row in listed))}"


def manifest(artifact: Artifact, pin: Pin | None) -> Iterator[str]:
    """A manifest for people."""
    about = artifact.manifest
    yield f"{artifact.name}  version {about.version}"
    yield f"  digest   {artifact.digest}"
    yield f"  created  {about.created[:19]}, in {clock(about.seconds)}, attempt {about.attempt}"
    yield f"  folder   {artifact.folder}"
    if about.mlflow_run_id:
        yield f"  MLflow   {about.mlflow_run_id}"
    if pin:
        yield f"  pinned   {pin}"
    inputs = {role: f"{'/'.join(i.key)}  digest {short(i.digest)}" for role, i in about.inputs.items()}
    figures = {key: f"{value:.6g}{_protocol(about.protocols.get(key))}" for key, value in about.metrics.items()}
    yield from _section("inputs", inputs)
    yield from _section("metrics", figures)
    for title, tree in (("config", about.config), ("properties", about.properties), ("numeric", about.numeric)):
        yield from _section(title, {key: _cut(value) for key, value in flatten(tree).items()})
    files = {e.name: size(e.bytes) + (f", {e.rows:,} rows" if e.rows is not None else "") for e in about.files}
    yield from _section(f"files ({len(files)}, {size(artifact.size)})", files)


def removed(collection: Collection, delete: bool) -> Iterator[str]:
    """The removals, done or planned, a line each, then the totals."""
    for removal in collection.removals:
        what = "" if removal.version is not None else f" {removal.what}"
        name = f"{short_name(removal.key)}{what}".rstrip()
        yield f"{removal.kind:<10}  {size(removal.bytes):>8}  {name}  ({removal.reason})"
    for name in collection.restored:
        yield f"put back    {name}  (needed again meanwhile)"
    for name in collection.busy:
        yield f"left        {name}  (in use, or changed meanwhile)"
    totals = {kind: count for kind, count in collection.totals().items() if count}
    kinds = "".join(f", {kind} {size(count)}" for kind, count in totals.items())
    yield f"{'freed' if delete else 'would free'} {size(sum(totals.values()))}{kinds}"
    if not delete and collection.removals:
        yield "nothing was removed; --delete does it"


def removed_record(collection: Collection, delete: bool) -> dict[str, Any]:
    """The same as JSON."""
    items = [
        {"kind": each.kind, "component": each.key[0], "fingerprint": each.key[1], "what": each.what,
         "bytes": each.bytes, "files": sorted(each.files), "reason": each.reason}
        for each in collection.removals
    ]  # fmt: skip
    totals = collection.totals()
    return {
        "deleted": delete, "bytes": sum(totals.values()), "bytes_by_kind": totals, "removals": items,
        "restored": collection.restored, "busy": collection.busy,
    }  # fmt: skip


def headline_figures(artifact: Artifact) -> dict[str, float]:
    """An artifact's headline figures, in the order of `HEADLINES`."""
    metrics = artifact.manifest.metrics
    return {key: metrics[key] for key in HEADLINES.get(artifact.manifest.component, ()) if key in metrics}


def figure(value: float) -> str:
    """A figure for people: counts as whole numbers, other values with five digits, none in powers of ten if large."""
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1e5 else f"{value:.5g}"


def headline_text(artifact: Artifact) -> str:
    """The same as text, such as `test_psnr_db 22.5`."""
    return ", ".join(f"{key} {figure(value)}" for key, value in headline_figures(artifact).items())


def _protocol(protocol: Any) -> str:
    if not protocol:
        return ""
    entries = protocol.items() if isinstance(protocol, dict) else [("protocol", protocol)]
    return "  (" + ", ".join(f"{key} {_cut(value)}" for key, value in entries) + ")"


def _section(title: str, entries: Mapping[str, str]) -> Iterator[str]:
    if entries:
        width = max(map(len, entries))
        yield title
        yield from (f"  {key:<{width}}  {value}" for key, value in entries.items())


def _cut(value: Any) -> str:
    """A value as text of at most `VALUE_LENGTH` characters."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= VALUE_LENGTH else f"{text[: VALUE_LENGTH - 3]}..."
