"""`vimctl plan`: a preset's memory, operations, hours and storage as tables or JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from pipelines import presets
from pipelines.cli import common

if TYPE_CHECKING:
    from rich.console import Console

    from pipelines.cli.common import Subparsers
    from vim_core.planning.plan import Component, Plan

GB = 1e9
NONE = "–"
MEMORY = ("weights", "gradients", "optimizer", "average", "frozen", "activations", "working", "peak")
WAYS = {"xla": "weights split over {} of {} chips", "fsdp": "FSDP2 over {} of {} chips", "data": "a copy on each chip"}


def add_commands(subparsers: Subparsers) -> None:
    """Add `vimctl plan`."""
    parser = common.subcommand(
        subparsers, "plan", run, "say what a preset needs on so many chips, without touching any",
        {
            "plan --preset imagenet256_large --topology 4x4x4 --mfu 0.4": "memory, hours and storage on 64 chips",
            "plan --preset imagenet256_base --accelerator H200 run.workers=8 --price 3": "eight GPUs, and the cost",
        },
    )  # fmt: skip
    common.add_settings(parser)
    parser.add_argument("--topology", help="the TPU slice, such as 4x4x4; short for run.topology=…")
    parser.add_argument("--accelerator", help="TPU-V4, TPU-V5E, TPU-V5P, H100 or H200; short for run.accelerator=…")
    parser.add_argument(
        "--mfu", default="", help="share of the bf16 peak that trainings reach, or a benchmark's record"
    )
    parser.add_argument("--price", type=float, help="price of a chip's hour; without it the plan says chip hours alone")
    parser.add_argument("--images", type=int, help="training images, where the preset's source is not known")
    parser.add_argument("--classes", type=int, help="classes of the data, likewise")
    parser.add_argument(
        "--bytes-per-image", type=float, help="size of the image table, where nobody measured such images"
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
    for key in ("topology", "accelerator"):
        value = getattr(arguments, key)
        overrides += [f"run.{key}={value}"] if value is not None else []
    given = arguments
    made = planning.make(
        presets.load(given.preset, overrides), given.mfu, given.price, given.images, given.classes,
        given.bytes_per_image, given.rate,
    )  # fmt: skip
    if given.json:
        sys.stdout.write(json.dumps(record(made), indent=1) + "\n")
    else:
        show(made, common.console())
    return 0


def record(plan: Plan) -> dict[str, Any]:
    """Everything in the plan, sizes in bytes."""
    return dataclasses.asdict(plan) | {"warnings": plan.warnings}


def show(plan: Plan, out: Console) -> None:
    """Tables for people, a column a training."""
    split = max((each.shards for each in plan.components), default=1)
    way = WAYS[plan.way].format(split, plan.chips)
    out.print(f"{plan.preset} on {plan.chips} x {plan.chip.name}, {way}", highlight=False, soft_wrap=True)
    if plan.components:
        heads = ["training", *(each.name for each in plan.components)]
        _table(out, "on a chip at the fullest moment, GB", heads, _columns([_memory(e, plan) for e in plan.components]))
        how = plan.mfu_from or "unknown, so no hours: give --mfu"
        _table(out, "parameters, million", heads, _columns([_parameters(each) for each in plan.components]))
        _table(out, f"work; MFU {how}", heads, _columns([_work(each) for each in plan.components]))
    rows = [[name, _or(size, GB, "GB")] for name, size in plan.tables.items()]
    rows += [[name, _or(hours, 1.0, "hours")] for name, hours in plan.hours.items()]
    _table(out, "tables; the other components by --rate", ["", "size or time"], rows)
    for kind, lines, style in (("note", plan.notes, ""), ("warning", plan.warnings, "yellow")):
        for line in lines:
            out.print(f"{kind}: {line}", style=style, markup=False, highlight=False, soft_wrap=True)


def _memory(each: Component, plan: Plan) -> dict[str, str]:
    found = {"images at a time": f"{each.images_a_chip:,}", "precision": each.precision}
    found |= {part: f"{getattr(each.memory, part) / GB:.2f}" for part in MEMORY}
    return found | {"peak of the chip": f"{each.memory.peak / plan.chip.memory:.0%}"}


def _parameters(each: Component) -> dict[str, str]:
    return {name: f"{count / 1e6:,.1f}" for name, count in each.parameters.items()}


def _work(each: Component) -> dict[str, str]:
    time, count = each.time, each.checkpoints
    return {
        "chips": f"{each.chips:,}",
        "images a step": f"{each.batch:,}",
        "tokens a step": f"{each.tokens:,}" if each.tokens else NONE,
        "steps": f"{each.steps:,}",
        "epochs": f"{each.epochs:,.1f}" if each.epochs else NONE,
        "FLOP a step": f"{sum(each.flops.values()):.3g}",
        "hours": f"{time.hours:,.2f}" if time else NONE,
        "chip hours": f"{time.chip_hours:,.1f}" if time else NONE,
        "cost": f"{time.cost:,.2f}" if time and time.cost is not None else NONE,
        "checkpoints, GB": f"{count} x {each.checkpoint_bytes / count / GB:.2f}",
    }


def _columns(found: list[dict[str, str]]) -> list[list[str]]:
    """A row for every name in any column, in order of appearance."""
    names = dict.fromkeys(name for column in found for name in column)
    return [[name, *(column.get(name, NONE) for column in found)] for name in names]


def _or(value: float | None, unit: float, word: str) -> str:
    return "not known" if value is None else f"{value / unit:,.2f} {word}"


def _table(out: Console, title: str, heads: list[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(*heads[:1], box=box.SIMPLE, pad_edge=False)
    for head in heads[1:]:
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(*row)
    out.print(f"\n{title}", style="bold", markup=False, highlight=False, soft_wrap=True)
    out.print(table)
