"""Gates on trainings: finite figures, few skipped updates, a codebook in use."""

from __future__ import annotations

import json
import math
from typing import Any

from components.artifacts.gates.verdict import Verdict, missing_property
from components.contract.api import Artifact, FileEntry, Inputs
from components.tracking.backfill import CURVES
from components.tracking.shipping import NONFINITE
from vim_core.config import PipelineConfig
from vim_core.storage import io

TAIL_BYTES = 1 << 17
"""Bytes at the end of the curves that are read, which hold hundreds of rows."""
USAGES = ("codebook_usage", "batch_usage")
"""Figures of the codebook's use over a window of batches; artifacts of earlier versions have the second alone."""


def check_finite(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Every metric and the last logged losses are finite, and few updates were skipped as non-finite."""
    manifest, bound = artifact.manifest, config.gates.nonfinite_share
    wrong = [name for name, value in manifest.metrics.items() if not math.isfinite(value)]
    for row in _last_rows(artifact)[-1:]:
        wrong += [f"{name} at step {row['step']}" for name, value in row["m"].items() if not math.isfinite(value)]
    if wrong:
        remedy = f"find the cause in its curves, then `vimctl run {manifest.component} --force`"
        return Verdict("finite", False, f"not finite: {', '.join(wrong[:4])}", remedy)
    skipped = 0
    if _entry(artifact, NONFINITE) is not None:
        skipped = len({json.loads(line)["step"] for line in io.read_bytes(artifact.uri(NONFINITE)).splitlines()})
    if not skipped:
        return Verdict("finite", True, "every figure is finite, no update was skipped", figures={"skipped": 0.0})
    if "steps" not in manifest.config:
        return missing_property("finite", artifact, "its number of steps")
    steps = int(manifest.config["steps"])
    share = skipped / steps
    text = f"{skipped} of {steps} updates were skipped as not finite ({share:.2%}), at most {bound:.2%} may be"
    remedy = (
        f"{NONFINITE} in its folder names steps, terms and samples; lower {manifest.component}.optim.lr, mend the "
        f"data, or accept it with gates.nonfinite_share={min(1.0, math.ceil(share * 1000) / 1000)}"
    )
    return Verdict("finite", skipped <= bound * steps, text, remedy, {"skipped": float(skipped)})


def check_codebook_usage(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Enough of the codes were in use when the tokenizer's training ended."""
    bound, rows = config.gates.codebook_usage, _last_rows(artifact)
    logged = [(row["step"], name, float(row["m"][name])) for row in rows for name in USAGES if name in row["m"]]
    if not logged:
        return missing_property("codebook_usage", artifact, f"the codebook's use ({CURVES} has no {USAGES[0]})")
    step = logged[-1][0]
    _, name, usage = next(entry for entry in logged if entry[0] == step)
    text = f"{name} {usage:.3g} at step {step}, at least {bound:g} is required"
    remedy = (
        "its codes have collapsed: train longer, switch on quantize.codebook.restart.every or change "
        f"quantize.codebook.codes, or accept it with gates.codebook_usage={math.floor(usage * 1000) / 1000:g}"
    )
    return Verdict("codebook_usage", usage >= bound, text, remedy, {"usage": usage})


def _entry(artifact: Artifact, name: str) -> FileEntry | None:
    return next((entry for entry in artifact.manifest.files if entry.name == name), None)


def _last_rows(artifact: Artifact) -> list[dict[str, Any]]:
    """The last logged rows, oldest first; none for a component without curves."""
    entry = _entry(artifact, CURVES)
    if entry is None:
        return []
    start = max(0, entry.bytes - TAIL_BYTES)
    lines = io.read_range(artifact.uri(CURVES), start, entry.bytes).splitlines()
    return [json.loads(line) for line in (lines[1:] if start else lines)]
