"""A run's rows beside the paper's: a cell has a value only if it was measured by the column's protocol (contract 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.report import metrics, paper_tables
from components.report.metrics import ACCEPTED, BOUNDS, Metric
from components.report.paper_tables import SIZE, SPLITS, Column, Table

NOT_RUN = "not run"
ELSEWHERE = "see below"
THIS_RUN = "This run"
TOKENIZERS = {(8, 512): "Small", (12, 768): "Base", (32, 1280): "Large"}
PRIORS = {(24, 1536): "VIM-Base", (36, 2048): "VIM-Large"}
"""The paper's names of stacks by blocks and width."""

Record = Mapping[str, Any]
"""A run's record, the content of `results.json`."""


@dataclass(frozen=True)
class Excluded:
    """A metric of the run that may not enter the table: dotted name, reason, label, value, and protocol in words."""

    key: str
    reason: str
    label: str
    value: str
    interval: str
    sentence: str


@dataclass(frozen=True)
class Row:
    """One run in one of the paper's tables: a cell per column, its compute, and the metrics listed below the table.

    `by_rate` are rows of the same run at other acceptance rates; `entered` is True if any metric is in a column.
    """

    cells: tuple[str, ...]
    by_rate: tuple[tuple[str, ...], ...]
    compute: str
    excluded: tuple[Excluded, ...]
    entered: bool


def tables(runs: Sequence[tuple[str, Record]]) -> list[tuple[Table, list[tuple[str, Row]], str]]:
    """Every table with the row of each run (name, record), and its state.

    The state is `compared` where a metric entered the table, `other protocol` where the runs only have metrics that
    may not, or `not run`. There are no tables if no run has any of their components.
    """
    components = {name for table in paper_tables.tables() for name in table.components}
    if not any(components & set(record.get("settings", {})) for _, record in runs):
        return []
    labels = {name: f"VIM, {name[:1].lower()}{name[1:]}" if name == THIS_RUN else f"VIM, {name}" for name, _ in runs}
    every = [(name, rows(record, labels[name])) for name, record in runs]
    compared = []
    for table in paper_tables.tables():
        shown = [(name, of_run[table.number]) for name, of_run in every]
        related = [of_run[number] for _, of_run in every for number in (table.number, table.see) if number]
        entered = any(row.entered for _, row in shown)
        state = "compared" if entered else "other protocol" if any(row.excluded for row in related) else "not run"
        compared.append((table, shown, state))
    return compared


def rows(record: Record, label: str = "VIM, this run") -> dict[int, Row]:
    """The run's row in every table, by the table's number; `label` names the run."""
    return {table.number: _row(table, record, label) for table in paper_tables.tables()}


def _row(table: Table, record: Record, label: str) -> Row:
    # Sampling settings that are not the paper's belong to the name of the run.
    sampling = record.get("settings", {}).get("sample", {}) if "sample" in table.components else {}
    unusual = [text for text in metrics.sampling_choices(sampling) if text != "temperature 1"]
    texts = {"model": ", ".join([label, *unusual]), **_description(record)}
    entered: set[str] = set()
    cells = _cells(table, record, texts, "", entered)
    rates: set[str] = set()
    if any(column.ours == "acceptance" for column in table.columns):
        rates = {name.partition(ACCEPTED)[2] for name in record.get("samples", {}) if not name.endswith(BOUNDS)}
    by_rate = [
        _cells(table, record, texts | {"acceptance": rate}, f"{ACCEPTED}{rate}", entered)
        for rate in sorted(rates - {""}, key=float, reverse=True) if float(rate) < 1
    ]  # fmt: skip
    measured = [column.figure for column in table.columns if _value(record, column.figure) is not None]
    protocols = record.get("protocols", {})
    for group in table.groups:
        for name, value in record.get(group, {}).items():
            # Counts have no protocol, and bounds belong to their metric.
            if f"{group}.{name}" in protocols and isinstance(value, int | float) and not name.endswith(BOUNDS):
                measured.append(f"{group}.{name}")
    excluded = [_excluded(table, key, record) for key in dict.fromkeys(measured) if key not in entered]
    compute = "; ".join(
        f"{name} {_cost(record['compute'][name], record.get('settings', {}).get(name, {}))}"
        for name in table.components if measured and name in record.get("compute", {})
    )  # fmt: skip
    return Row(cells, tuple(by_rate), compute, tuple(excluded), bool(entered))


def _cells(table: Table, record: Record, texts: Mapping[str, str], suffix: str, entered: set[str]) -> tuple[str, ...]:
    """A cell per column, from metrics whose names end in `suffix`; the names of those in a cell go to `entered`."""
    cells = []
    for column in table.columns:
        if not column.figure:
            cells.append(texts.get(column.ours, "") or (NOT_RUN if column.ours else "–"))
            continue
        key = column.figure + suffix
        value, refusal = _value(record, key), _refusal(table, column, key, record)
        if value is None:
            cells.append(NOT_RUN)
        elif refusal:
            cells.append(ELSEWHERE)
        else:
            entered.add(key)
            cells.append(f"{value * column.scale:.{column.digits}f}")
    return tuple(cells)


def _excluded(table: Table, key: str, record: Record) -> Excluded:
    """A metric below the table, with its value and protocol, and why it is not in a column."""
    base = key.partition(ACCEPTED)[0]
    column = next((column for column in table.columns if column.figure == base), None)
    if column is not None:
        reason = _refusal(table, column, key, record)
    elif key.partition(".")[2].startswith("fd_"):
        reason = "not FID, which is defined on the Inception network of 2015 with its published weights"
    else:
        reason = "the table has no such column"
    group, _, name = key.partition(".")
    unlisted = Metric(group, name, "", metrics.label(name))
    metric = next((metric for metric in metrics.present(record) if metric.key == key), unlisted)
    protocol = record.get("protocols", {}).get(key, {})
    return Excluded(key, reason, metric.label, *metrics.formatted(record, metric), metrics.sentence(protocol))


def _refusal(table: Table, column: Column, key: str, record: Record) -> str:
    """The reason why the metric `key` may not enter a column, '' if it may."""
    protocol = record.get("protocols", {}).get(key, {})
    if _data_set(record) not in table.datasets:
        size = record.get("settings", {}).get("quantize", {}).get("image_size")
        count = record.get("data", {}).get("splits", {}).get("test")
        images = f"{count:,} held-out images" if isinstance(count, int) else "other images"
        images += f" at {size} × {size}" if size else ""
        return f"measured on {images}, not on {' or '.join(table.datasets)} at {SIZE} × {SIZE}"
    if key.startswith("probe.") and record.get("tokenizer", {}).get("perceptual"):
        return "the tokenizer was trained with the perceptual loss, which carries labels"
    name = str(protocol.get("protocol", ""))
    if column.protocol and name != column.protocol:
        return f"protocol {name or 'without a name'}, not {column.protocol}"
    if column.count and int(protocol.get("count", 0)) != column.count:
        return f"on {int(protocol.get('count', 0)):,} images, not {column.count:,}"
    return ""


def _value(record: Record, key: str) -> float | None:
    """A metric by its dotted name."""
    group, _, name = key.partition(".")
    value = record.get(group, {}).get(name)
    return None if value is None else float(value)


def _data_set(record: Record) -> str:
    """The paper's data set of the same number of images and size, or the empty string."""
    splits = record.get("data", {}).get("splits", {})
    size = record.get("settings", {}).get("quantize", {}).get("image_size")
    counts = (splits.get("train"), splits.get("test"))
    return next((name for name, known in SPLITS.items() if known == counts and size == SIZE), "")


def _description(record: Record) -> dict[str, str]:
    """Return the run's description by column name; unknown values are left out."""
    settings, grid = record.get("settings", {}), record.get("tokenizer", {}).get("grid")
    quantize, prior = settings.get("quantize", {}), settings.get("prior", {})
    codebook = quantize.get("codebook", {})
    texts = {"architecture": "ViT", "data": _data_set(record) or str(record.get("data", {}).get("source", ""))}
    if grid:
        texts["grid"] = f"{grid[0]}×{grid[1]}"
    if codebook:
        texts["codes"], texts["code_dim"] = str(codebook.get("codes", "")), str(codebook.get("dim", ""))
        texts["normalised"] = "yes" if codebook.get("l2") else "no"
    if quantize.get("encoder"):
        sizes = [_stack_name(quantize[side], TOKENIZERS) for side in ("encoder", "decoder")]
        texts["sizes"] = ("-" if set(sizes) <= set(TOKENIZERS.values()) else " / ").join(sizes)
        kind = str(quantize.get("discriminator", {}).get("kind", "stylegan"))
        texts["discriminator"] = {"stylegan": "StyleGAN", "patchgan": "PatchGAN"}.get(kind, kind)
    if prior.get("stack"):
        texts["prior"] = _stack_name(prior["stack"], PRIORS)
        texts["features"] = str(prior["stack"]["dim"])
    if "sample" in settings:
        texts["acceptance"] = "1.0"
    return texts


def _stack_name(stack: Mapping[str, Any], names: Mapping[tuple[int, int], str]) -> str:
    """The paper's name of a stack, or its blocks × width."""
    shape = (int(stack["blocks"]), int(stack["dim"]))
    return names.get(shape, f"{shape[0]} × {shape[1]}")


def _cost(entry: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
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
