"""Findings of a rehearsal: a rule's name, PASS, WARN or FAIL, the figure, and what to do.

| rule | FAIL | WARN |
|---|---|---|
| `runs` | a component failed or a quality gate stopped it | |
| `resume` | weights after a kill differ, or training began at step 0 | |
| `compiles` | a program was compiled after the warm-up | |
| `reads` | the host waited for the device outside of log lines | |
| `reading` | more than 1.2 images were read for one used | |
| `decoding` | more than 1.05 images were decoded for one used | |
| `processes` | a process has more than 1.5 GB resident, or grew by as much | |
| `memory` | 1.5 times what the plan says | 1.15 times |
| `collectives` | more than three times the gradients' bytes a step | |
| `checkpoint` | | one takes longer to write than training takes to the next |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from components.rehearsal.figures import TrainingFigures
from vim_core.config import PipelineConfig
from vim_core.planning.networks import has_perceptual
from vim_core.rehearsal.schedule import Schedule

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"
READ_PER_USED, DECODED_PER_USED = 1.2, 1.05
PROCESS_BYTES = 1.5e9
PLAN_WARNS, PLAN_FAILS = 1.15, 1.5
"""Measured bytes over the plan's."""
SMALL_BYTES = 2e6
"""Bytes by which plan and measurement may differ before their ratio means anything: buffers of fixed size."""
COPIES = 38e6
"""Copies in bf16 of the perceptual loss's fixed weights, which the backward pass keeps and the plan leaves out."""
GRADIENT_SHARES = 3.0
"""Bytes of a step's collectives over those of the gradients: FSDP2 gathers twice and reduces once."""
GB = 1e9


@dataclass(frozen=True)
class Finding:
    """One rule's outcome for a component."""

    component: str
    rule: str
    status: str
    text: str
    remedy: str = ""


Rule = Callable[[TrainingFigures, PipelineConfig], Iterator[Finding]]


def judge(figures: TrainingFigures, config: PipelineConfig) -> list[Finding]:
    """The findings of one training; `config` is the rehearsal's."""
    return [finding for rule in RULES for finding in rule(figures, config)]


def _finding(
    figures: TrainingFigures, rule: str, text: str, remedy: str, failed: bool, warned: bool = False
) -> Iterator[Finding]:
    status = FAIL if failed else WARN if warned else PASS
    yield Finding(figures.name, rule, status, text, remedy if status != PASS else "")


def check_resume(figures: TrainingFigures, config: PipelineConfig) -> Iterator[Finding]:
    """The training continues from its checkpoint and ends with the same bits."""
    resume, expected = figures.resume, Schedule(config.run.rehearse).checkpoint
    how = "killed" if resume["killed"] else "begun anew in one process"
    same = "bit-equal" if resume["equal"] else "other weights"
    text = f"{how}, continued from step {resume['step']} of {expected}: {same}"
    remedy = f"keep {figures.name}.keep at 2 or more, and find what is not a function of the step: do not start it"
    yield from _finding(figures, "resume", text, remedy, not resume["equal"] or resume["step"] != expected)


def check_compiles(figures: TrainingFigures, config: PipelineConfig) -> Iterator[Finding]:
    """Nothing is compiled once every kind of step was seen."""
    remedy = "a shape or a Python number changes from step to step; TORCH_LOGS=recompiles or XLA's metrics name it"
    text = f"{sum(figures.compiled.values())} programs after the warm-up"
    text += f", in steps {', '.join(figures.compiled)}" if figures.compiled else ""
    yield from _finding(figures, "compiles", text, remedy, bool(figures.compiled))


def check_reads(figures: TrainingFigures, config: PipelineConfig) -> Iterator[Finding]:
    """The host does not wait for the device between log lines."""
    outside = {part: count for part, count in figures.reads.items() if part != "log"}
    where = ", ".join(f"{count:g} in {part}" for part, count in sorted(outside.items()) if count) or "none"
    remedy = "a value is read on the host (float(), .item(), a mask as index): the device idles meanwhile"
    failed = sum(outside.values()) > 0
    yield from _finding(figures, "reads", f"host reads a step outside of log lines: {where}", remedy, failed)


def check_feed(figures: TrainingFigures, config: PipelineConfig) -> Iterator[Finding]:
    """Few images are read and decoded that no batch uses."""
    if figures.read_per_used is None or figures.decoded_per_used is None or figures.bytes_per_used is None:
        return
    text = f"{figures.read_per_used:.2f} images ({figures.bytes_per_used / 1e3:,.0f} kB) read for one used"
    remedy = f"run.workers={config.run.workers} share row groups: more ingest.shards, or a batch of more powers of two"
    yield from _finding(figures, "reading", text, remedy, figures.read_per_used > READ_PER_USED)
    text = f"{figures.decoded_per_used:.2f} images decoded for one used"
    remedy = "images are decoded and not used"
    yield from _finding(figures, "decoding", text, remedy, figures.decoded_per_used > DECODED_PER_USED)


def check_processes(figures: TrainingFigures, config: PipelineConfig) -> Iterator[Finding]:
    """No process grows beyond what a host of many workers can hold."""
    every = [size for worker in figures.memory for size in worker]
    # A training in the process of the command shares it with all that ran before.
    grown = [size - before for worker, before in zip(figures.memory, figures.before, strict=True)
             for size, before in zip(worker, [before, *[0] * len(worker)], strict=False)]  # fmt: skip
    text = f"{len(every)} processes, the largest {max(every) / GB:.2f} GB, together {sum(every) / GB:.2f} GB"
    remedy = f"fewer run.data_workers than {config.run.data_workers}, or a smaller cache of images"
    yield from _finding(figures, "processes", text, remedy, max(grown) > PROCESS_BYTES)


def check_memory(figures: TrainingFigures, config: PipelineConfig) -> Iterator[Finding]:
    """The plan's model holds for these sizes."""
    if not figures.peak_bytes or not figures.planned_bytes:
        return
    fixed = SMALL_BYTES + (COPIES if figures.name == "quantize" and has_perceptual(config.quantize) else 0.0)
    over = max(0.0, figures.peak_bytes - fixed) / figures.planned_bytes
    text = f"{figures.peak_bytes / GB:.3f} GB of tensors at the peak, the plan says {figures.planned_bytes / GB:.3f}"
    remedy = "`vimctl plan` is too low for this preset by as much: leave the difference free on the device"
    yield from _finding(figures, "memory", text, remedy, over > PLAN_FAILS, over > PLAN_WARNS)


def check_collectives(figures: TrainingFigures, config: PipelineConfig) -> Iterator[Finding]:
    """A step sends little more than its gradients."""
    text = f"{figures.collectives:g} collectives, {figures.collective_bytes / 1e6:.2f} MB a step and worker"
    most = GRADIENT_SHARES * figures.gradient_bytes + 1e6
    remedy = "more is sent than gradients: gather weights once a step (run.parallel), average gradients once"
    yield from _finding(figures, "collectives", text, remedy, figures.collective_bytes > most)


def check_checkpoint(figures: TrainingFigures, config: PipelineConfig) -> Iterator[Finding]:
    """A checkpoint is on disk before the next one is due."""
    made = figures.checkpoint
    text = f"{made['bytes'] / 1e6:.1f} MB in {made['seconds']:.2f} s, training waited {made['waited']:.2f} s"
    remedy = f"one takes {figures.writing_seconds:,.0f} s at full size: raise {figures.name}.checkpoint_every"
    yield from _finding(
        figures, "checkpoint", text, remedy, False, figures.writing_seconds > figures.interval_seconds > 0
    )


RULES: tuple[Rule, ...] = (
    check_resume, check_compiles, check_reads, check_feed, check_processes, check_memory, check_collectives,
    check_checkpoint,
)  # fmt: skip
