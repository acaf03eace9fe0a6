"""`vimctl compare`: finding the reports of runs, their page, and the table in the terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from components.report.compare import Run
from pipelines import presets
from pipelines.cli.summary import line, place
from pipelines.orchestration import session
from vim_core.errors import ConfigError, DataError
from vim_core.storage import io

if TYPE_CHECKING:
    from rich.console import Console

FILES = ("results.json", "report.html")


def write(names: list[str], overrides: list[str], target: str) -> list[Run]:
    """Write the page of these runs to `target` and give them back.

    Raises:
        ConfigError: fewer than two runs are named, or a name is neither a place nor a preset.
        DataError: there is no report yet, or it cannot be read.
    """
    from components.report import compare_page

    if len(names) < 2:
        raise ConfigError(f"compare: {' '.join(names) or 'nothing'}: name two runs or more")
    runs = distinct([read(name, *locate(name, overrides)) for name in names])
    io.write_bytes(target, compare_page.render(runs).encode())
    return runs


def locate(name: str, overrides: list[str]) -> tuple[str, str]:
    """Where a run's `results.json` and `report.html` lie; see `write`."""
    folder = name.rpartition("/")[0] or "." if name.endswith(FILES) else name
    if io.exists(io.join(folder, FILES[0])):
        return io.join(folder, FILES[0]), io.join(folder, FILES[1])
    manifest = io.join(folder, "manifest.json")
    if io.exists(manifest):
        return _of_artifact(folder, manifest)
    if "/" in name:
        raise DataError(f"{name}: has neither results.json nor manifest.json; give the folder of a report")
    settings = presets.load(name, overrides)
    folder = session.published(settings)
    if not io.exists(io.join(folder, FILES[0])):
        raise DataError(f"{place(folder)}: no report yet; make it with `vimctl run --preset {name}`")
    return io.join(folder, FILES[0]), io.join(folder, FILES[1])


def read(name: str, results: str, page: str) -> Run:
    """A run from its report; pictures are those of its page, if it is there. Raises `DataError` for broken JSON."""
    from components.report import compare_page

    try:
        record = json.loads(io.read_bytes(results))
    except ValueError as error:
        raise DataError(f"{place(results)}: is not the record of a report: {error}") from error
    if not isinstance(record, dict) or "protocols" not in record:
        raise DataError(f"{place(results)}: is not the record of a report: it has no protocols")
    found = compare_page.pictures(io.read_bytes(page).decode()) if io.exists(page) else {}
    where = place(results).removesuffix("/" + FILES[0])
    title = str(record.get("preset") or name)
    return Run(title, record, where, found.get("samples", ()), found.get("reconstructions", ()))


def distinct(runs: list[Run]) -> list[Run]:
    """The runs under names that differ: those of one preset are numbered."""
    from dataclasses import replace

    names = [run.name for run in runs]
    return [
        replace(run, name=f"{run.name} {names[: i + 1].count(run.name)}") if names.count(run.name) > 1 else run
        for i, run in enumerate(runs)
    ]


def show(runs: list[Run], target: str, console: Console) -> None:
    """Print the figures that compare, the ones refused with the fields that differ, and where the page lies."""
    from rich.table import Table

    from components.report import compare

    lines, refusals = compare.compare(runs)
    made = Table(box=None, pad_edge=False, header_style="bold")
    made.add_column("figure", no_wrap=True)
    for run in runs:
        made.add_column(run.name, justify="right")
    made.add_column("")
    for one in lines:
        cells = [f"{cell.value} [{cell.interval}]" if cell.interval else cell.value for cell in one.cells]
        made.add_row(one.key, *(_plain(cell) for cell in cells), _plain(one.verdict))
    console.print(made)
    for refusal in refusals:
        fields = ", ".join(name for name, _, _ in refusal.fields)
        line(console, "refused", f"{refusal.key}: {' and '.join(refusal.runs)} differ in {fields}")
    for name, values in compare.settings_that_differ(runs):
        line(console, "setting", f"{name}: {' | '.join(values)}")
    line(console, "page", place(target))


def _of_artifact(folder: str, manifest: str) -> tuple[str, str]:
    from components.artifacts import store
    from components.contract.api import Artifact

    artifact = Artifact(folder, store.parse(io.read_bytes(manifest), manifest))
    if artifact.manifest.component != "report":
        raise DataError(f"{folder}: is an artifact of {artifact.manifest.component}; give one of report")
    return artifact.uri(FILES[0]), artifact.uri(FILES[1])


def _plain(text: str) -> str:
    """Text that rich takes as it stands."""
    from rich.markup import escape

    return escape(text)
