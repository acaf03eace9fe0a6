"""`vimctl compare`: the reports of several runs on one page and in the terminal."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from dataclasses import replace
from typing import TYPE_CHECKING

from components.contract.commands import command
from pipelines import presets
from pipelines.cli import common
from pipelines.cli.common import print_field
from vim_core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from components.report.compare import Run

RESULTS, PAGE, REPORT = "results.json", "report.html", "report"
LONGEST = 80
"""Most letters of the runs' names in the name of a page's file."""


def add_commands(subparsers: common.Subparsers) -> None:
    """Add `vimctl compare`."""
    parser = common.subcommand(
        subparsers, "compare", run, "put the reports of several runs beside each other",
        ("compare digits other/report-folder", "two runs, on one page and in the terminal"),
        ("compare digits report/3fa2 run.root=/mnt/runs", "the last report of a preset and an earlier one"),
    )  # fmt: skip
    parser.add_argument(
        "words", nargs="*", metavar="RUN … key=value …",
        help=f"a preset's name, a folder with results.json, or an artifact of report: {common.ARTIFACT}; "
        "run.root=… says of which root",
    )  # fmt: skip
    parser.add_argument("--out", default="", help="the page to write (default: reports/compare-….html in the root)")


def run(arguments: Namespace) -> int:
    """`vimctl compare`: the comparable figures, the refused ones with the fields that differ, the page's address."""
    from rich.markup import escape
    from rich.table import Table

    from components.report import compare
    from vim_core.storage import io

    names = [word for word in arguments.words if "=" not in word]
    overrides = [word for word in arguments.words if "=" in word]
    target = arguments.out or default_target(names, overrides)
    runs = write(names, overrides, target)
    lines, refusals = compare.compare(runs)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("figure", no_wrap=True)
    for run in runs:
        table.add_column(run.name, justify="right")
    table.add_column("")
    for line in lines:
        cells = [f"{cell.value} [{cell.interval}]" if cell.interval else cell.value for cell in line.cells]
        table.add_row(line.key, *map(escape, cells), escape(line.verdict))
    console = common.console()
    console.print(table)
    for refusal in refusals:
        fields = ", ".join(name for name, _, _ in refusal.fields)
        print_field(console, "refused", f"{refusal.key}: {' and '.join(refusal.runs)} differ in {fields}")
    for name, values in compare.settings_that_differ(runs):
        print_field(console, "setting", f"{name}: {' | '.join(values)}")
    print_field(console, "page", io.absolute(target))
    return 0


def default_target(names: list[str], overrides: list[str]) -> str:
    """The page's address in the folder `reports` of the root."""
    from vim_core.storage import io

    words = re.sub(r"[^\w.-]+", "-", "-".join(name.rstrip("/").rpartition("/")[2] for name in names))
    root = presets.load(presets.default(), overrides).run.root
    return io.join(root, "reports", f"compare-{words[:LONGEST]}.html")


def write(names: list[str], overrides: list[str], target: str) -> list[Run]:
    """Write the page of these runs to `target` and return them, each with a name of its own (`compare.names`).

    Raises:
        ConfigError: fewer than two runs are named, or a name is neither a path nor a preset.
        DataError: there is no report yet, or it cannot be read.
    """
    from components.report import compare
    from components.report.page import comparison_page
    from vim_core.storage import io

    if len(names) < 2:
        raise ConfigError(f"compare: {' '.join(names) or 'nothing'}: name two runs or more")
    runs = [read(name, *locate(name, overrides)) for name in names]
    runs = [replace(run, name=name) for run, name in zip(runs, compare.names(runs), strict=True)]
    io.write_bytes(target, comparison_page(runs).encode())
    return runs


def locate(name: str, overrides: list[str]) -> tuple[str, str]:
    """URIs of a run's `results.json` and `report.html`; see `write`."""
    from components.artifacts import resolve
    from pipelines.orchestration.session import report_folder
    from vim_core.storage import io

    folder = name.rpartition("/")[0] or "." if name.endswith((RESULTS, PAGE)) else name
    if io.exists(io.join(folder, RESULTS)):
        return io.join(folder, RESULTS), io.join(folder, PAGE)
    if "/" in name or io.exists(name) or name == REPORT or re.fullmatch("[0-9a-f]{4,}", name):
        artifact = resolve.resolve(folder, presets.load(presets.default(), overrides), [REPORT])
        return artifact.uri(RESULTS), artifact.uri(PAGE)
    folder = report_folder(presets.load(name, overrides))
    if not io.exists(io.join(folder, RESULTS)):
        raise DataError(f"{io.absolute(folder)}: no report yet; make it with `{command('run', preset=name)}`")
    return io.join(folder, RESULTS), io.join(folder, PAGE)


def read(name: str, results: str, page: str) -> Run:
    """A run from its report, with the pictures of its page if it is there. Raises `DataError` for broken JSON."""
    from components.report.compare import Run
    from components.report.grids import read_pictures
    from vim_core.storage import io

    try:
        record = json.loads(io.read_bytes(results))
    except ValueError as error:
        raise DataError(f"{io.absolute(results)}: is not the record of a report: {error}") from error
    if not isinstance(record, dict) or "protocols" not in record:
        raise DataError(f"{io.absolute(results)}: is not the record of a report: it has no protocols")
    pictures = read_pictures(io.read_bytes(page).decode()) if io.exists(page) else {}
    folder = io.absolute(results).removesuffix(f"/{RESULTS}")
    title = str(record.get("preset") or name)
    return Run(title, record, folder, pictures.get("samples", ()), pictures.get("reconstructions", ()))
