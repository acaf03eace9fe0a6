"""Terminal output of `vimctl sweep`: the sweep's preset and root, then its points in a table, and the best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.report import tradeoff
from components.tracking.link import tracking_uri
from pipelines.cli.common import print_field
from pipelines.sweeps.results import DONE, FAILED, PAGE, RESULTS
from pipelines.sweeps.spec import Sweep
from vim_core.config import PipelineConfig
from vim_core.storage import io

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 140
"""Columns of a terminal with room for figures beside those of the axes; the page has them all."""


def print_start(sweep: Sweep, config: PipelineConfig, console: Console) -> None:
    """Print the sweep, its preset, the root and the MLflow experiment."""
    uri = tracking_uri(config.run)
    print_field(console, "sweep", f"{sweep.name}{': ' if sweep.about else ''}{sweep.about}")
    print_field(console, "preset", config.preset)
    print_field(console, "root", io.absolute(config.run.root))
    print_field(console, "MLflow", f"experiment {config.preset} in {uri}" if uri else "off (run.tracking_uri=off)")


def print_results(results: Mapping[str, Any], folder: str, console: Console) -> None:
    """Print every point with its figures, the best, reasons of failures, and the files with more."""
    _print_points(results, console)
    points, counts = {point["number"]: point for point in results["points"]}, results["counts"]
    for number, point in points.items():
        if point["status"] == FAILED:
            print_field(console, "failed", f"point {number} ({point['label']}): {point['reason']}")
    if counts["done"] and not results["groups"]:
        known = ", ".join(sorted({name for point in points.values() for name in point["figures"]}))
        print_field(console, "best", f"none: no point has both of {' and '.join(results['axes'])}; figures are {known}")
    for group in results["groups"]:
        if group["best"] in points:
            print_field(console, "best", f"point {group['best']}: {points[group['best']]['label']}")
    missing = counts["points"] - counts["done"] - counts["failed"]
    waiting = f"; {missing} not evaluated yet, the same command continues" if missing else ""
    print_field(console, "shared", f"{tradeoff.sharing(results)}{waiting}")
    print_field(console, "page", io.absolute(io.join(folder, PAGE)))
    print_field(console, "figures", io.absolute(io.join(folder, RESULTS)))
    mlflow = results["mlflow"]
    if mlflow:
        run = f"experiment {mlflow['experiment']}, run {mlflow['run_id'] or 'not delivered'}"
        print_field(console, "MLflow", mlflow.get("url") or run)


def _print_points(results: Mapping[str, Any], console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    titles, figures = tradeoff.head(results), len(tradeoff.columns(results))
    shown = len(results["axes"]) if console.width < WIDE else figures
    for title in titles[: len(titles) - figures + shown]:
        table.add_column(escape(title), justify="right")
    table.add_column("")
    for point in results["points"]:
        row = tradeoff.row(results, point)
        mark = "[bold green]best[/]" if row.mark == "best" else row.mark
        mark = mark if point["status"] == DONE else f"[yellow]{point['status']}[/]"
        cells = [f"{value} [dim]({interval})[/]" if interval else value for value, interval in row.figures[:shown]]
        table.add_row(str(row.number), *map(escape, row.settings), *cells, mark)
    console.print(table)
