"""What `vimctl run` shows at its start and at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.artifacts.execute import Result
from components.artifacts.headlines import HEADLINES
from components.tracking.link import tracking_uri
from components.tracking.progress import duration
from pipelines.orchestration.session import Session, mlflow_record, published
from vim_core.config import PipelineConfig
from vim_core.storage import io

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def opening(config: PipelineConfig, names: list[str], console: Console) -> None:
    """Print which preset runs, where it keeps things and where it is tracked."""
    uri = tracking_uri(config.run)
    tracked = f"experiment {config.preset} in {uri}" if uri else "off (run.tracking_uri=off)"
    line(console, "preset", f"{config.preset}: {', '.join(names)}")
    line(console, "root", place(config.run.root))
    line(console, "MLflow", tracked)


def closing(run: Session, console: Console) -> None:
    """Print what ran, what was reused, the headline figures, and where to look."""
    console.print(table(run.results))
    record = mlflow_record(run.config, run.tracking)
    if run.page:
        line(console, "report", place(run.page))
        line(console, "figures", place(io.join(published(run.config), "results.json")))
    if record:
        where = record.get("url") or f"experiment {record['experiment']}, run {record['run_id'] or 'not delivered'}"
        line(console, "MLflow", where)
    command = f"vimctl ui --preset {run.config.preset}"
    line(console, "look around", f"{command}   (MLflow and Dagster on this machine)")


def table(results: dict[str, Result]) -> Table:
    """Component, ran or reused, seconds, headline figures."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    made.add_column("component")
    made.add_column("")
    made.add_column("time", justify="right")
    made.add_column("figures", overflow="fold")
    for name, result in results.items():
        state = "[dim]reused[/dim]" if result.reused else "[green]ran[/green]"
        made.add_row(name, state, duration(result.seconds), figures(name, result))
    return made


def figures(name: str, result: Result) -> str:
    """The component's headline metrics, such as `psnr_db 22.5 · codebook_usage 0.95`."""
    metrics = result.artifact.manifest.metrics
    wanted = HEADLINES.get(name, ())
    return " · ".join(f"{key} {metrics[key]:.5g}" for key in wanted if key in metrics)


def place(uri: str) -> str:
    """An address for people: local paths whole, remote ones as they are."""
    return str(io.local_path(uri).absolute()) if io.is_local(uri) else uri


def line(console: Console, title: str, text: str) -> None:
    """Print a title and a text that may be long and is never broken."""
    console.print(f"[bold]{title:<11}[/bold]", end=" ")
    console.print(text, markup=False, highlight=False, soft_wrap=True)
