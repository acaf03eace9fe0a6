"""What `vimctl sweep` shows: where a sweep works, its points in a table, the best, and where to look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.tracking.link import tracking_uri
from pipelines.cli.common import display_path, print_field
from pipelines.sweeps import page, state, table
from pipelines.sweeps.results import DONE, FAILED
from pipelines.sweeps.spec import Sweep
from vim_core.config import PipelineConfig
from vim_core.storage import io

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDE = 140
"""Columns of a terminal that has room for more figures than those of the axes; the page has them all."""


def opening(sweep: Sweep, config: PipelineConfig, console: Console) -> None:
    """Print which sweep runs on what, where it keeps things and where it is tracked."""
    uri = tracking_uri(config.run)
    print_field(console, "sweep", f"{sweep.name}{': ' if sweep.about else ''}{sweep.about}")
    print_field(console, "preset", config.preset)
    print_field(console, "root", display_path(config.run.root))
    print_field(console, "MLflow", f"experiment {config.preset} in {uri}" if uri else "off (run.tracking_uri=off)")


def closing(results: Mapping[str, Any], folder: str, console: Console) -> None:
    """Print every point with its figures, the best, why others failed, and where to look."""
    console.print(_table(results, narrow=console.width < WIDE))
    for point in results["points"]:
        if point["status"] == FAILED:
            print_field(console, "failed", f"point {point['number']} ({point['label']}): {point['reason']}")
    if results["counts"]["done"] and not results["groups"]:
        known = sorted({name for point in results["points"] for name in point["figures"]})
        print_field(
            console,
            "best",
            f"none: no point has both of {' and '.join(results['axes'])}; figures are {', '.join(known)}",
        )
    for group in results["groups"]:
        best = next((p for p in results["points"] if p["number"] == group["best"]), None)
        if best is not None:
            print_field(console, "best", f"point {best['number']}: {best['label']}")
    counts = results["counts"]
    open_points = counts["points"] - counts["done"] - counts["failed"]
    waiting = f"; {open_points} not evaluated yet, the same command continues" if open_points else ""
    print_field(console, "shared", f"{page.sharing(results)}{waiting}")
    print_field(console, "page", display_path(io.join(folder, state.PAGE)))
    print_field(console, "figures", display_path(io.join(folder, state.RESULTS)))
    mlflow = results["mlflow"]
    if mlflow:
        run = f"experiment {mlflow['experiment']}, run {mlflow['run_id'] or 'not delivered'}"
        print_field(console, "MLflow", mlflow.get("url") or run)


def _table(results: Mapping[str, Any], narrow: bool) -> Table:
    from rich.markup import escape
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    fronts = {number for group in results["groups"] for number in group["front"]}
    best = {group["best"] for group in results["groups"]}
    shown = len(results["axes"]) if narrow else None
    titles = table.head(results)
    settings = len(titles) - len(table.columns(results))
    for title in (*titles[:settings], *titles[settings:][:shown], ""):
        made.add_column(escape(title), justify="right" if title else "left")
    for point in results["points"]:
        row = table.row(results, point)
        number = point["number"]
        mark = "[bold green]best[/]" if number in best else "front" if number in fronts else ""
        mark = mark if point["status"] == DONE else f"[yellow]{point['status']}[/]"
        cells = [f"{value} [dim]({interval})[/]" if interval else value for value, interval in row.figures[:shown]]
        made.add_row(str(number), *map(escape, row.settings), *cells, mark)
    return made
