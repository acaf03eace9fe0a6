"""The figures of a rehearsed training: what its workers measured, beside the plan and at the preset's own size."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from components.contract.api import Artifact
from components.rehearsal import RECORD
from vim_core.config import PipelineConfig, TrainConfig
from vim_core.planning import chips, costs, plan
from vim_core.planning.networks import CLASSIFIERS
from vim_core.rehearsal.schedule import Schedule
from vim_core.storage import io

CHIP = {"xla": "TPU-V4"}
"""Chip whose plan a device is compared with; of GPUs and CPUs that of a GPU."""
GPU = "H200"


@dataclass(frozen=True)
class TrainingFigures:
    """Figures of one training, JSON-ready; seconds, bytes, counts a step. Lists are by worker.

    Attributes:
        name: the component.
        steps, batch: of the rehearsal; the batch is that of all workers.
        device: the numeric class, such as cpu-bf16-t2-w1.
        step_seconds: wall clock of a step of the slowest worker.
        parts: its seconds by part.
        images_per_s, tokens_per_s: of all workers; no tokens where the training has none.
        share: achieved share of the measured product rate.
        hours: of the preset's own training on this device by the ratio of operations: an extrapolation.
        compiled: programs compiled after the warm-up, by the number of steps done.
        reads: blocking host reads a step by part.
        collectives, collective_bytes: a step and worker; `gradient_bytes` are those of all gradients.
        read_per_used, bytes_per_used, decoded_per_used: of the image feed, None where it reads codes. Images that were
            read for later steps count as used, and so does each image of a table that no epoch has finished.
        memory: proportional resident bytes of each process, a list a worker; `before`: of a worker before the training.
        peak_bytes, planned_bytes: on a device, as measured and as the plan models these sizes; 0 where unknown.
        checkpoint: seconds, waited, bytes.
        interval_seconds, writing_seconds: between checkpoints and to write one at the preset's own size, extrapolated.
        resume: `step` continued from, `equal` to the whole training, `killed` or begun anew in one process.
    """

    name: str
    steps: int
    batch: int
    device: str
    step_seconds: float
    parts: dict[str, float]
    images_per_s: float
    tokens_per_s: float
    share: float
    hours: float
    compiled: dict[str, int]
    reads: dict[str, float]
    collectives: float
    collective_bytes: float
    gradient_bytes: float
    read_per_used: float | None
    bytes_per_used: float | None
    decoded_per_used: float | None
    memory: list[list[int]]
    before: list[int]
    peak_bytes: float
    planned_bytes: float
    checkpoint: dict[str, float]
    interval_seconds: float
    writing_seconds: float
    resume: dict[str, Any]


def training_figures(
    name: str, full: PipelineConfig, small: PipelineConfig, artifact: Artifact, images: int = 0
) -> TrainingFigures:
    """The figures of a training's artifact.

    `full` is the preset as it is, `small` what was run, on a table of `images` training images (0: unknown).
    """
    records: list[dict[str, Any]] = json.loads(io.read_bytes(artifact.uri(RECORD)))
    slowest = max(records, key=lambda record: record["step_seconds"])
    settings: TrainConfig = getattr(small, name)
    own: TrainConfig = getattr(full, name)
    seconds, numeric = slowest["step_seconds"], artifact.manifest.numeric
    classes = len(artifact.properties.get("classes", []))
    operations = sum(costs.step_flops(name, small, classes).values())
    known = costs.known_dataset(full)
    whole = sum(costs.step_flops(name, full, known.classes if known else classes).values())
    full_seconds = seconds * whole / operations
    planned = planned_training(name, small, records, classes, str(numeric["dtype"]))
    wanted = planned_training(name, full, records, known.classes if known else classes, str(numeric["dtype"]))
    feed = {key: sum(record["feed"].get(key, 0) for record in records) for key in records[0]["feed"]}
    used = feed.get("images_used", 0)
    written = {key: max(record["checkpoint"][key] for record in records) for key in ("seconds", "waited")}
    written["bytes"] = float(sum(record["checkpoint"]["bytes"] for record in records))
    checkpoint_bytes = wanted.checkpoint_bytes / wanted.checkpoints if wanted and wanted.checkpoints else 0.0
    tokens = (small.quantize.image_size // small.quantize.patch) ** 2
    return TrainingFigures(
        name=name,
        steps=Schedule(small.run.rehearse).timed - Schedule(small.run.rehearse).warm,
        batch=settings.batch,
        device=f"{numeric['device']}-{numeric['dtype']}-t{numeric['threads']}-w{numeric['world']}",
        step_seconds=seconds,
        parts=slowest["part_seconds"],
        images_per_s=settings.batch / seconds,
        tokens_per_s=0.0 if name in CLASSIFIERS else settings.batch * tokens / seconds,
        share=operations / seconds / (1e9 * float(numeric["product_gflops"]) * int(numeric["world"])),
        hours=full_seconds * own.steps / 3600,
        compiled=max((record["compiled"] for record in records), key=lambda each: sum(each.values())),
        reads=slowest["reads"],
        collectives=slowest["collectives"],
        collective_bytes=slowest["collective_bytes"],
        gradient_bytes=planned.memory.gradients if planned else 0.0,
        read_per_used=feed["images_read"] / max(used, images, feed.get("images_kept", 0)) if used else None,
        bytes_per_used=feed["bytes_read"] / used if used else None,
        decoded_per_used=feed["images_decoded"] / used if used else None,
        memory=[record["memory"] for record in records],
        before=[record["before"] for record in records],
        peak_bytes=max(record["peak_bytes"] for record in records),
        planned_bytes=planned.memory.peak if planned else 0.0,
        checkpoint=written,
        interval_seconds=full_seconds * own.checkpoint_every,
        writing_seconds=written["seconds"] * checkpoint_bytes / max(1.0, written["bytes"]),
        resume={
            "step": min(record["resume"]["step"] for record in records),
            "equal": all(record["resume"]["equal"] for record in records),
            "killed": any(record["resume"]["killed"] for record in records),
        },
    )


def planned_training(
    name: str, config: PipelineConfig, records: list[dict[str, Any]], classes: int, dtype: str
) -> plan.ComponentPlan | None:
    """The plan of one training on as many chips as it has workers; None where the plan does not know it."""
    if name not in plan.COMPONENTS:
        return None
    settings = replace(getattr(config, name), precision="bf16" if dtype == "bf16" else "fp32")
    alone = replace(config, components=[each for each in config.components if each == name], **{name: settings})
    chip = chips.find_chip(CHIP.get(config.run.device, GPU))
    inputs = plan.PlanInputs(images=1_000_000, classes=max(1, classes))
    made = plan.plan_preset(alone, chip, len(records), inputs)
    return made.components[0] if made.components else None
