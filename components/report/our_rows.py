"""Our rows beside the paper's: a cell is filled only by a figure of the column's own protocol (contract 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from components.report import format
from components.report.paper_tables import SIZE, SPLITS, TABLES, Column, Table
from components.report.results import ACCEPTED, BOUNDS

NOT_RUN = "not run"
ELSEWHERE = "see below"
TOKENIZERS = {(8, 512): "Small", (12, 768): "Base", (32, 1280): "Large"}
PRIORS = {(24, 1536): "VIM-Base", (36, 2048): "VIM-Large"}


@dataclass(frozen=True)
class Stands:
    """A figure of ours, by its dotted name, that may not enter the table, and why."""

    figure: str
    reason: str


@dataclass(frozen=True)
class Row:
    """One run in one of the paper's tables: a cell per column, its compute, and what stands below the table.

    `further` are rows of the same run at other acceptance rates; `entered` says whether any figure is in a column.
    """

    cells: tuple[str, ...]
    further: tuple[tuple[str, ...], ...]
    compute: str
    beside: tuple[Stands, ...]
    entered: bool


def rows(record: Mapping[str, Any], label: str = "VIM, this run") -> dict[int, Row]:
    """The run's row in every table, by the table's number; `label` names the run."""
    return {table.number: row(table, record, label) for table in TABLES}


def row(table: Table, record: Mapping[str, Any], label: str) -> Row:
    """The run's row in one table."""
    told = {"model": ", ".join([label, *drawn(table, record)]), **described(record)}
    used: set[str] = set()
    cells = _cells(table, record, told, "", used)
    rates = rates_of(record) if any(column.ours == "acceptance" for column in table.columns) else []
    further = [_cells(table, record, told | {"acceptance": rate}, f"{ACCEPTED}{rate}", used) for rate in rates]
    own = [column.figure for column in table.columns if figure(record, column.figure) is not None]
    kept = dict.fromkeys([*own, *own_figures(table.groups, record)])
    beside = tuple(Stands(key, why_beside(table, key, record)) for key in kept if key not in used)
    return Row(cells, tuple(further), compute(table, record) if kept else "", beside, bool(used))


def drawn(table: Table, record: Mapping[str, Any]) -> list[str]:
    """How samples were drawn where that is not the paper's way, for tables of samples."""
    usual = format.choices({"temperature": 1.0})
    given = record.get("settings", {}).get("sample", {}) if "sample" in table.components else {}
    return [text for text in format.choices(given) if text not in usual]


def rates_of(record: Mapping[str, Any]) -> list[str]:
    """Acceptance rates below 1 at which samples were scored, loosest first."""
    parts = [name.partition(ACCEPTED)[2] for name in record.get("samples", {}) if not name.endswith(BOUNDS)]
    return sorted({rate for rate in parts if rate and float(rate) < 1}, key=float, reverse=True)


def _cells(
    table: Table, record: Mapping[str, Any], told: Mapping[str, str], suffix: str, used: set[str]
) -> tuple[str, ...]:
    """A cell per column, of the figures whose names end in `suffix`; those that entered are added to `used`."""
    cells = []
    for column in table.columns:
        if not column.figure:
            cells.append(told.get(column.ours, "") or (NOT_RUN if column.ours else "–"))
            continue
        asked = replace(column, figure=column.figure + suffix)
        refusal, value = refused(table, asked, record), figure(record, asked.figure)
        if refusal is None and value is not None:
            used.add(asked.figure)
            cells.append(f"{value * column.scale:.{column.digits}f}")
        else:
            cells.append(ELSEWHERE if refusal else NOT_RUN)
    return tuple(cells)


def refused(table: Table, column: Column, record: Mapping[str, Any]) -> str | None:
    """Why our figure may not enter a column: None if it may, the empty string where there is no such figure."""
    if figure(record, column.figure) is None:
        return ""
    protocol = record.get("protocols", {}).get(column.figure, {})
    if data_set(record) not in table.datasets:
        return f"measured on {pictures(record)}, not on {' or '.join(table.datasets)} at {SIZE} × {SIZE}"
    if column.figure.startswith("probe.") and record.get("tokenizer", {}).get("perceptual"):
        return "the tokenizer was trained with the perceptual loss, which carries labels"
    name = protocol_name(protocol)
    if column.protocol and name != column.protocol:
        return f"protocol {name or 'without a name'}, not {column.protocol}"
    if column.count and int(protocol.get("count", 0)) != column.count:
        return f"on {int(protocol.get('count', 0)):,} images, not {column.count:,}"
    return None


def why_beside(table: Table, key: str, record: Mapping[str, Any]) -> str:
    """Why a figure stands beside the table and not in it."""
    for column in table.columns:
        if column.figure and column.figure == key.partition(ACCEPTED)[0]:
            return refused(table, replace(column, figure=key), record) or ""
    name = key.partition(".")[2]
    if name.startswith("fd_"):
        return "not FID, which is defined on the Inception network of 2015 with its published weights"
    return "the table has no such column"


def protocol_name(protocol: Mapping[str, Any]) -> str:
    """The literature's name of a figure's protocol, such as 'torch-fidelity', or the empty string."""
    return str(protocol.get("protocol", ""))


def own_figures(groups: tuple[str, ...], record: Mapping[str, Any]) -> list[str]:
    """Dotted names of the run's figures in these groups that have a protocol; counts and bounds are none."""
    known = record.get("protocols", {})
    return [
        f"{group}.{name}"
        for group in groups
        for name, value in record.get(group, {}).items()
        if f"{group}.{name}" in known and isinstance(value, int | float) and not name.endswith(BOUNDS)
    ]


def figure(record: Mapping[str, Any], key: str) -> float | None:
    """A figure by its dotted name."""
    group, _, name = key.partition(".")
    value = record.get(group, {}).get(name)
    return None if value is None else float(value)


def data_set(record: Mapping[str, Any]) -> str:
    """The paper's data set of the same number of images and size, or the empty string."""
    splits = record.get("data", {}).get("splits", {})
    size = record.get("settings", {}).get("quantize", {}).get("image_size")
    found = [
        name for name, (train, test) in SPLITS.items() if (splits.get("train"), splits.get("test")) == (train, test)
    ]
    return found[0] if found and size == SIZE else ""


def pictures(record: Mapping[str, Any]) -> str:
    """The run's images in words, such as '302 held-out images at 32 × 32'."""
    size = record.get("settings", {}).get("quantize", {}).get("image_size")
    count = record.get("data", {}).get("splits", {}).get("test")
    text = f"{count:,} held-out images" if isinstance(count, int) else "other images"
    return f"{text} at {size} × {size}" if size else text


def described(record: Mapping[str, Any]) -> dict[str, str]:
    """What the run is, for columns of words; what is not known is left out."""
    settings, grid = record.get("settings", {}), record.get("tokenizer", {}).get("grid")
    quantize, prior = settings.get("quantize", {}), settings.get("prior", {})
    codebook = quantize.get("codebook", {})
    told = {"architecture": "ViT", "data": data_set(record) or str(record.get("data", {}).get("source", ""))}
    if grid:
        told["grid"] = f"{grid[0]}×{grid[1]}"
    if codebook:
        told["codes"], told["code_dim"] = str(codebook.get("codes", "")), str(codebook.get("dim", ""))
        told["normalised"] = "yes" if codebook.get("l2") else "no"
    if quantize.get("encoder"):
        sizes = [_size(quantize[side], TOKENIZERS) for side in ("encoder", "decoder")]
        told["sizes"] = ("-" if set(sizes) <= set(TOKENIZERS.values()) else " / ").join(sizes)
        kinds = {"stylegan": "StyleGAN", "patchgan": "PatchGAN"}
        kind = str(quantize.get("discriminator", {}).get("kind", "stylegan"))
        told["discriminator"] = kinds.get(kind, kind)
    if prior.get("stack"):
        told["prior"] = _size(prior["stack"], PRIORS)
        told["features"] = str(prior["stack"]["dim"])
    if "sample" in settings:
        told["acceptance"] = "1.0"
    return told


def compute(table: Table, record: Mapping[str, Any]) -> str:
    """What the table's components cost in this run's artifacts: time, device, steps and images."""
    known, settings = record.get("compute", {}), record.get("settings", {})
    return "; ".join(
        f"{name} {spent(known[name], settings.get(name, {}))}" for name in table.components if name in known
    )


def spent(entry: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """One component's cost in words, such as '159 s on cpu, 2 threads, bf16, 500 steps of 128 images'."""
    parts = [f"{entry['seconds']:,.0f} s" + (f" on {entry['device']}" if entry.get("device") else "")]
    if entry.get("world", 1) > 1:
        parts.append(f"{entry['world']} devices")
    if entry.get("threads") and entry.get("device", "cpu") == "cpu":
        parts.append(f"{entry['threads']} thread{'s' if entry['threads'] > 1 else ''}")
    if entry.get("dtype"):
        parts.append(str(entry["dtype"]))
    if "steps" in settings and "batch" in settings:
        parts.append(f"{settings['steps']:,} steps of {settings['batch']:,} images")
    elif "count" in settings:
        parts.append(f"{settings['count']:,} images")
    return ", ".join(parts)


def _size(stack: Mapping[str, Any], names: Mapping[tuple[int, int], str]) -> str:
    """The paper's name of a stack, or its blocks × width."""
    shape = (int(stack["blocks"]), int(stack["dim"]))
    return names.get(shape, f"{shape[0]} × {shape[1]}")
