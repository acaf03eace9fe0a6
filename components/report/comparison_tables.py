"""The paper's tables with the rows of one or several runs, ready for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.report import format, our_rows
from components.report import results as figures
from components.report.our_rows import Row
from components.report.paper_tables import TABLES, Table

HERE = "This run"
Named = tuple[str, Mapping[str, Any]]
"""A run's name on the page and its record, the content of `results.json`."""


@dataclass(frozen=True)
class Shown:
    """A figure that stands below a table: its name, value, interval, protocol in words, and why it is there."""

    label: str
    value: str
    interval: str
    sentence: str
    reason: str


@dataclass(frozen=True)
class Ours:
    """One run's row in a table, and the figures that stand below it."""

    row: Row
    shown: tuple[Shown, ...]


def tables(runs: Sequence[Named]) -> list[tuple[Table, list[tuple[str, Ours]], str]]:
    """Every table with each run's row, and its state: figures entered, or only such of other protocol, or not run.

    None of them where no run has any of the stages that the tables are about.
    """
    stages = {name for table in TABLES for name in table.components}
    if not any(stages & set(record.get("settings", {})) for _, record in runs):
        return []
    rows = [(name, record, our_rows.rows(record, _label(name))) for name, record in runs]
    out = []
    for table in TABLES:
        ours = [(name, Ours(found[table.number], _below(found[table.number], record))) for name, record, found in rows]
        near = [found[number] for _, _, found in rows for number in (table.number, table.see) if number]
        entered = any(one.row.entered for _, one in ours)
        state = "compared" if entered else "other protocol" if any(row.beside for row in near) else "not run"
        out.append((table, ours, state))
    return out


def _label(name: str) -> str:
    return f"VIM, {name[:1].lower()}{name[1:]}" if name == HERE else f"VIM, {name}"


def _below(row: Row, record: Mapping[str, Any]) -> tuple[Shown, ...]:
    known = {figure.key: figure for figure in figures.known(record)}
    values = figures.flat(record)
    return tuple(
        Shown(
            known[one.figure].label,
            figures.shown(values[one.figure], known[one.figure].style),
            figures.interval(values, known[one.figure]),
            format.sentence(record["protocols"].get(one.figure, {})),
            one.reason,
        )
        for one in row.beside
        if one.figure in known
    )
