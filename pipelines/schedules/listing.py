"""What `vimctl sweep list` shows: sweeps with their results, schedules with their next tick and last run."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipelines.cli.common import display_path, print_field
from pipelines.orchestration import history
from pipelines.schedules import files, ticks
from pipelines.schedules.files import Schedule
from pipelines.schedules.names import TAG
from pipelines.sweeps import state
from vim_core.config import PipelineConfig
from vim_core.storage import io

if TYPE_CHECKING:
    from dagster import DagsterInstance
    from rich.console import Console
    from rich.table import Table

NEVER = "–"


def show(config: PipelineConfig, console: Console) -> None:
    """Print both tables, damaged files, and whether anybody looks at the schedules."""
    root = config.run.root
    found, wrong = files.everything(root)
    console.print(_sweeps(root))
    if found:
        console.print()
        runs, watched = _history(config, found)
        console.print(_schedules(found, runs))
        if not watched:
            path = display_path(root)
            print_field(console, "asleep", f"no daemon looks at {path}: start `vimctl ui run.root={path}`")
    for text in wrong:
        print_field(console, "damaged", text)


def moment(seconds: float) -> str:
    """A time for people, in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _sweeps(root: str) -> Table:
    from rich.table import Table

    made = Table("sweep", "points", "failed", box=None, pad_edge=False, header_style="bold")
    made.add_column("page", overflow="fold")
    for name in state.names(root):
        counts = (state.read(root, name) or {}).get("counts", {})
        page = display_path(f"{state.folder(root, name)}/{state.PAGE}")
        made.add_row(name, str(counts.get("points", NEVER)), str(counts.get("failed", NEVER)), page)
    if not made.row_count:
        made.add_row("none was run yet", "", "", "")
    return made


def _schedules(found: list[Schedule], runs: dict[str, str]) -> Table:
    from rich.table import Table

    heads = ("schedule", "when", "missed", "where", "next", "last")
    made = Table(*heads, box=None, pad_edge=False, header_style="bold")
    for each in found:
        coming = moment(ticks.following(each.cron, each.timezone, time.time())) if each.cron else NEVER
        row = (each.name, each.when, each.missed, each.cluster or "here", "paused" if each.paused else coming)
        made.add_row(*row, runs.get(each.name, NEVER))
    return made


def _history(config: PipelineConfig, found: list[Schedule]) -> tuple[dict[str, str], bool]:
    """The last run of each schedule, and whether a daemon looks; nothing where this machine has no history."""
    if not os.environ.get("DAGSTER_HOME"):
        if not io.is_local(config.run.root):
            return {}, True  # of a remote root, the history lies where the daemon is
        if not (io.local_path(config.run.root) / "dagster" / "dagster.yaml").exists():
            return {}, False
    instance = history.instance(config)
    try:
        return {each.name: text for each in found if (text := _last(instance, each.name))}, _watched(instance)
    finally:
        instance.dispose()


def _last(instance: DagsterInstance, name: str) -> str:
    from dagster import RunsFilter

    records = instance.get_run_records(filters=RunsFilter(tags={TAG: name}), limit=1)
    if not records:
        return ""
    status = str(records[0].dagster_run.status.value).lower()
    return f"{status} {moment(records[0].create_timestamp.timestamp())}"


def _watched(instance: DagsterInstance) -> bool:
    """Whether the daemon that looks at the schedules gave a sign of life lately."""
    return bool(instance.get_daemon_statuses(["SENSOR"])["SENSOR"].healthy)
