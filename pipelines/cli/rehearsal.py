"""A rehearsal on this machine, and its tables; on a cluster this is what the job does."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pipelines.cli import common
from vim_core.config import PipelineConfig
from vim_core.storage import io

if TYPE_CHECKING:
    from rich.console import Console

    from components.rehearsal.run import Rehearsal

FILE = "rehearsal.json"
COLORS = {"PASS": "green", "WARN": "yellow", "FAIL": "red"}
WIDTH = 11
PARTS = (
    "data", "to_device", "encode", "forward", "backward", "optimizer", "codebook", "discriminator", "collectives",
    "log", "other",
)  # fmt: skip
EXTRAPOLATED = "* on this device, by the ratio of operations; small networks reach a smaller share of its rate"


def execute(
    config: PipelineConfig, names: Sequence[str], measured: int, root: str, file: str,
    places: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> int:  # fmt: skip
    """Rehearse components below `root`, print the tables, write the record to `file`; 1 where anything failed."""
    from components.rehearsal.run import rehearse
    from components.rehearsal.tracking import RehearsalTracker
    from components.tracking.progress import progress_on
    from vim_core.text import duration

    # Trainings run in this process, whose libraries warn where a worker's log would take it.
    warnings.filterwarnings("ignore", category=UserWarning)

    console = common.console()
    common.configure_logging(console)
    bar = progress_on(console)
    common.print_field(console, "rehearsal", f"{config.preset}: {', '.join(names)}; sizes only are smaller")

    def finished(name: str, seconds: float) -> None:
        common.print_wrapped(console, f"{name:<{WIDTH}}  {duration(seconds):>11}", "")

    result = rehearse(config, names, measured, root, bar, finished, places)
    print_tables(result, console)
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder, FILE)
        record = RehearsalTracker(config, result)
        text = json.dumps(result.record(), indent=1)
        local.write_text(text, encoding="utf-8")
        tracked = record.deliver(str(local))
    io.write_bytes(file, text.encode())
    where = f"figures {io.absolute(file)}"
    if tracked:
        where += f" · MLflow {tracked.get('url') or tracked['experiment']}"
    common.print_wrapped(console, result.status, f"  {where}", COLORS[result.status])
    return int(result.status == "FAIL")


def print_tables(result: Rehearsal, console: Console) -> None:
    """A column for each training, then the findings that did not pass, and how many did."""
    from rich import box
    from rich.table import Table

    if result.trainings:
        table = Table("", *result.trainings, box=box.SIMPLE, pad_edge=False)
        columns = [rows(figures) for figures in result.trainings.values()]
        for name in dict.fromkeys(name for column in columns for name in column):
            table.add_row(name, *(column.get(name, "–") for column in columns))
        console.print(table)
        console.print(EXTRAPOLATED, highlight=False, soft_wrap=True)
    passed = sum(finding.status == "PASS" for finding in result.findings)
    console.print(f"{passed} of {len(result.findings)} findings are PASS", highlight=False)
    for finding in result.findings:
        if finding.status != "PASS":
            begin = f"{finding.status}  {finding.component} {finding.rule}: "
            common.print_wrapped(console, begin, f"{finding.text}. {finding.remedy}", COLORS[finding.status])


def rows(figures: Any) -> dict[str, str]:
    """The rows of one training's column by title."""
    parts = {f"  {part}": f"{1e3 * figures.parts[part]:,.1f} ms" if part in figures.parts else "–" for part in PARTS}
    processes = [size for worker in figures.memory for size in worker]
    values = {
        "device": figures.device,
        "batch": f"{figures.batch:,}",
        "step": f"{1e3 * figures.step_seconds:,.1f} ms",
        **parts,
        "images/s": f"{figures.images_per_s:,.1f}",
        "tokens/s": f"{figures.tokens_per_s:,.0f}" if figures.tokens_per_s else "–",
        "share of product rate": f"{figures.share:.1%}",
        "hours at full size *": f"{figures.hours:,.0f}",
        "programs after warm-up": str(sum(figures.compiled.values())),
        "host reads a step": f"{sum(figures.reads.values()):g}",
        "collectives a step": f"{figures.collectives:g}, {figures.collective_bytes / 1e6:,.2f} MB",
        "processes, resident": f"{len(processes)}, {sum(processes) / 1e9:.2f} GB",
        "device peak, plan": f"{figures.peak_bytes / 1e6:,.1f}, {figures.planned_bytes / 1e6:,.1f} MB",
        "checkpoint": f"{figures.checkpoint['bytes'] / 1e6:,.1f} MB, {figures.checkpoint['seconds']:.2f} s",
    }
    if figures.read_per_used is not None:
        values["images read, decoded for one"] = f"{figures.read_per_used:.2f}, {figures.decoded_per_used:.2f}"
    return values
