"""`vimctl plan`: a preset's memory, operations, hours and storage as tables or JSON."""

from __future__ import annotations

import dataclasses
import json
from argparse import Namespace
from typing import TYPE_CHECKING

from pipelines import presets
from pipelines.cli import common

if TYPE_CHECKING:
    from rich.console import Console

    from vim_core.planning.plan import ComponentPlan, PresetPlan

GB = 1e9
NONE = "–"
MEMORY = ("weights", "gradients", "optimizer", "average", "frozen", "activations", "working", "peak")
PARALLELISM = {
    "xla": "weights split over {} of {} chips",
    "fsdp": "FSDP2 over {} of {} chips",
    "data": "a copy on each chip",
}


def add_commands(subparsers: common.Subparsers) -> None:
    """Add `vimctl plan`."""
    parser = common.subcommand(
        subparsers, "plan", run, "estimate what a preset needs on a number of chips, without using any",
        ("plan --preset imagenet256_large --topology 4x4x4 --mfu 0.4", "memory, hours and storage on 64 chips"),
        ("plan --preset imagenet256_base --hardware h100x8 --price 3", "eight GPUs, and the cost"),
    )  # fmt: skip
    common.add_settings(parser)
    parser.add_argument(
        "--hardware", help="a file of pipelines/conf/hardware, such as h100x8; short for run.hardware=…"
    )
    parser.add_argument("--topology", help="the TPU slice, such as 4x4x4; short for run.topology=…")
    parser.add_argument("--accelerator", help="TPU-V4, H100, H200, A100-80G …; short for run.accelerator=…")
    parser.add_argument(
        "--mfu", default="", help="share of the bf16 peak that trainings reach, or a benchmark's record"
    )
    parser.add_argument(
        "--price", type=common.AMOUNT, help="price of a chip's hour; without it the plan has chip hours only"
    )
    parser.add_argument(
        "--images", type=common.POSITIVE, help="number of training images, if the preset's source is unknown"
    )
    parser.add_argument("--classes", type=common.POSITIVE, help="number of classes, if the preset's source is unknown")
    parser.add_argument(
        "--bytes-per-image",
        type=common.POSITIVE_FLOAT,
        help="size of the image table, where nobody measured such images",
    )
    parser.add_argument(
        "--rate", action="append", default=[], metavar="COMPONENT=N",
        help="images a second of ingest, statistics, tokenize, reconstruct or sample, all workers together",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def run(arguments: Namespace) -> int:
    """`vimctl plan`. Raises `ConfigError` for a malformed topology or setting; what does not fit is a warning."""
    from components.training import plan as planning

    overrides = common.only_overrides(arguments.words)
    for key in ("hardware", "topology", "accelerator"):
        value = getattr(arguments, key)
        overrides += [f"run.{key}={value}"] if value is not None else []
    config = presets.load(arguments.preset, overrides)
    plan = planning.make_plan(
        config, arguments.mfu, arguments.price, arguments.images, arguments.classes,
        arguments.bytes_per_image, arguments.rate,
    )  # fmt: skip
    if arguments.json:
        # Sizes are in bytes.
        common.print_line(json.dumps(dataclasses.asdict(plan) | {"warnings": plan.warnings}, indent=1))
    else:
        print_tables(plan, common.console(), config.run.hardware)
    return 0


def print_tables(plan: PresetPlan, console: Console, hardware: str = "") -> None:
    """Tables for people, a column a training; `hardware` is the file that was chosen."""
    split = max((component.shards for component in plan.components), default=1)
    parallelism = PARALLELISM[plan.way].format(split, plan.chips)
    chips = f"{plan.chips} x {plan.chip.name}" + (f" ({hardware})" if hardware else "")
    console.print(f"{plan.preset} on {chips}, {parallelism}", highlight=False, soft_wrap=True)
    if plan.components:
        heads = ["training", *(component.name for component in plan.components)]
        memory = [
            {
                "images at a time": f"{component.images_a_chip:,}",
                "precision": component.precision,
                **{part: f"{getattr(component.memory, part) / GB:.2f}" for part in MEMORY},
                "peak of the chip": f"{component.memory.peak / plan.chip.memory:.0%}",
            }
            for component in plan.components
        ]
        _print_table(console, "on a chip at the fullest moment, GB", heads, _rows(memory))
        counts = [
            {name: f"{count / 1e6:,.1f}" for name, count in component.parameters.items()}
            for component in plan.components
        ]
        _print_table(console, "parameters, million", heads, _rows(counts))
        mfu = plan.mfu_from or "unknown, so no hours: give --mfu"
        _print_table(console, f"work; MFU {mfu}", heads, _rows([_work(component) for component in plan.components]))
    rows = [[name, _size(size, GB, "GB")] for name, size in plan.tables.items()]
    rows += [[name, _size(hours, 1.0, "hours")] for name, hours in plan.hours.items()]
    _print_table(console, "tables; the other components by --rate", ["", "size or time"], rows)
    for kind, lines, style in (("note", plan.notes, ""), ("warning", plan.warnings, "yellow")):
        for line in lines:
            console.print(f"{kind}: {line}", style=style, markup=False, highlight=False, soft_wrap=True)


def _work(component: ComponentPlan) -> dict[str, str]:
    time, count = component.time, component.checkpoints
    return {
        "chips": f"{component.chips:,}",
        "images a step": f"{component.batch:,}",
        "tokens a step": f"{component.tokens:,}" if component.tokens else NONE,
        "steps": f"{component.steps:,}",
        "epochs": f"{component.epochs:,.1f}" if component.epochs else NONE,
        "FLOP a step": f"{sum(component.flops.values()):.3g}",
        "hours": f"{time.hours:,.2f}" if time else NONE,
        "chip hours": f"{time.chip_hours:,.1f}" if time else NONE,
        "cost": f"{time.cost:,.2f}" if time and time.cost is not None else NONE,
        "checkpoints, GB": f"{count} x {component.checkpoint_bytes / count / GB:.2f}",
    }


def _rows(columns: list[dict[str, str]]) -> list[list[str]]:
    """A row for every name in any column, in order of appearance."""
    names = dict.fromkeys(name for column in columns for name in column)
    return [[name, *(column.get(name, NONE) for column in columns)] for name in names]


def _size(value: float | None, unit: float, word: str) -> str:
    return "not known" if value is None else f"{value / unit:,.2f} {word}"


def _print_table(console: Console, title: str, heads: list[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(*heads[:1], box=box.SIMPLE, pad_edge=False)
    for head in heads[1:]:
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(*row)
    console.print(f"\n{title}", style="bold", markup=False, highlight=False, soft_wrap=True)
    console.print(table)
