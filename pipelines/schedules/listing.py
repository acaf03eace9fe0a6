"""Terminal output of `vimctl sweep list`: sweeps with their results, schedules with their next tick and last run."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipelines.cli.common import print_field
from pipelines.orchestration import history
from pipelines.schedules import due
from pipelines.schedules import state as schedules
from pipelines.schedules.state import Schedule
from pipelines.sweeps import state as sweeps
from vim_core.config import PipelineConfig
from vim_core.storage import io

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NEVER = "–"


def show(config: PipelineConfig, console: Console) -> None:
    """Print both tables, damaged files, and whether a daemon evaluates the schedules."""
    root = config.run.root
    found, errors = schedules.read_all(root)
    console.print(_sweep_table(root))
    if found:
        console.print()
        last_runs, alive = _history(config, found)
        console.print(_schedule_table(found, last_runs))
        if not alive:
            path = io.absolute(root)
            print_field(console, "asleep", f"no daemon looks at {path}: start `vimctl ui run.root={path}`")
    for text in errors:
        print_field(console, "damaged", text)


def format_time(seconds: float) -> str:
    """Seconds since 1970 as a date and time in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _sweep_table(root: str) -> Table:
    from rich.table import Table

    table = Table("sweep", "points", "failed", box=None, pad_edge=False, header_style="bold")
    table.add_column("page", overflow="fold")
    for name in sweeps.names(root):
        counts = (sweeps.read(root, name) or {}).get("counts", {})
        page = io.absolute(f"{sweeps.folder(root, name)}/{sweeps.PAGE}")
        table.add_row(name, str(counts.get("points", NEVER)), str(counts.get("failed", NEVER)), page)
    if not table.row_count:
        table.add_row("none was run yet", "", "", "")
    return table


def _schedule_table(found: list[Schedule], last_runs: dict[str, str]) -> Table:
    from rich.table import Table

    columns = ("schedule", "when", "missed", "where", "next", "last")
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for schedule in found:
        tick = NEVER
        if schedule.cron:
            tick = format_time(due.next_tick(schedule.cron, schedule.timezone, time.time()))
        following = "paused" if schedule.paused else tick
        place, last = schedule.cluster or "here", last_runs.get(schedule.name, NEVER)
        table.add_row(schedule.name, schedule.when, schedule.missed, place, following, last)
    return table


def _history(config: PipelineConfig, found: list[Schedule]) -> tuple[dict[str, str], bool]:
    """The last run of each schedule, and whether the daemon's sensor is alive; nothing without a local history."""
    if not os.environ.get("DAGSTER_HOME"):
        if not io.is_local(config.run.root):
            return {}, True  # the history of a remote root lies where its daemon runs
        if not (io.local_path(config.run.root) / "dagster" / "dagster.yaml").exists():
            return {}, False
    from dagster import RunsFilter

    last_runs = {}
    with history.instance(config) as instance:
        for schedule in found:
            for record in instance.get_run_records(filters=RunsFilter(tags={due.TAG: schedule.name}), limit=1):
                status = str(record.dagster_run.status.value).lower()
                last_runs[schedule.name] = f"{status} {format_time(record.create_timestamp.timestamp())}"
        return last_runs, bool(instance.get_daemon_statuses(["SENSOR"])["SENSOR"].healthy)
