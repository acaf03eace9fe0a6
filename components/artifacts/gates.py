"""Quality gates: conditions that an artifact must meet before others are made from it.

Tables: every image that went in came out, or was set aside with its reason. Lineage: an artifact was made from the
artifacts that are its inputs now (contract 3). Trainings: finite figures, few skipped updates, a codebook in use.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence

from components.artifacts.counts import counted, shortfalls
from components.artifacts.inventory import short_name
from components.artifacts.learning import ADVICE
from components.artifacts.verdicts import Gate, Verdict, entry, last_rows, missing, remake
from components.contract import lineage
from components.contract.api import Artifact, Inputs
from components.contract.commands import command
from components.tracking.shipping import CURVES, NONFINITE
from vim_core.config import PipelineConfig
from vim_core.errors import GateError
from vim_core.storage import io

FINITE, USAGE, COUNTED, LINEAGE = "finite", "codebook_usage", "images_accounted_for", "lineage"
SUFFICIENT = "images_suffice"
INPUT_DIGESTS = ("images", "codes", "prior", "samples")
"""Properties that hold the digest of the input of the same name."""
RECORDED = {
    "classify": ("images",), "selector": ("images",), "quantize": ("images",), "tokenize": ("images", "tokenizer"),
    "reconstruct": ("images", "tokenizer"), "prior": ("codes", "tokenizer"), "sample": ("prior", "tokenizer"),
    "select": ("samples",),
}  # fmt: skip
"""Properties that each component records of itself."""
USAGES = ("codebook_usage", "batch_usage")
"""Figures of the codebook's use over a window of batches; artifacts of earlier versions have the second alone."""


def check_ingest(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Read = training images + held-out images + dead letters, in the manifest and in the rows of its files."""
    properties = artifact.properties
    lacking = [name for name in ("read", "dead_letter", "splits") if name not in properties]
    if lacking:
        return missing(COUNTED, artifact, ", ".join(lacking))
    splits, rows = properties["splits"], _rows(artifact, "images/")
    read, dead, written = int(properties["read"]), int(properties["dead_letter"]), sum(rows.values())
    text = f"{read} read, {written} in the table, {dead} set aside"
    passed = written + dead == read and +Counter(splits) == rows
    return _counted(passed, text, artifact, {"read": read, "dead_letter": dead, **splits})


def check_sufficient(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Every later component has the images, classes and candidates that its settings ask for."""
    properties = artifact.properties
    lacking = [name for name in ("classes", "splits") if name not in properties]
    if lacking:
        return missing(SUFFICIENT, artifact, ", ".join(lacking))
    splits, classes = properties["splits"], properties["classes"]
    text = f"{splits['train']} training and {splits['test']} held-out images"
    text += f" of {len(classes)} class{'es' * (len(classes) != 1)}" if classes else ""
    problems = shortfalls(config, counted(artifact))
    if problems:
        numbered = "; ".join(f"({number}) {problem}" for number, problem in enumerate(problems, 1))
        text += f": {len(problems)} setting{'s do' if len(problems) != 1 else ' does'} not fit: {numbered}"
    remedy = "Set what fits and run again: the images are not read again"
    return Verdict(SUFFICIENT, not problems, text, remedy, {"problems": float(len(problems))})


def check_tokenize(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """A row for every view of every training image, and one for each held-out image."""
    if "images" not in inputs or "views" not in artifact.properties or "splits" not in inputs["images"].properties:
        return missing(COUNTED, artifact, "its views or its images")
    views = int(artifact.properties["views"])
    images, rows = inputs["images"].properties["splits"], _rows(artifact, "codes/")
    expected = {split: count * (views if split == "train" else 1) for split, count in images.items()}
    text = f"{rows} rows of {images} images, {views} views of a training image"
    return _counted(rows == +Counter(expected), text, artifact, {f"rows_{split}": n for split, n in rows.items()})


def check_reconstruct(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Every held-out image, up to the limit."""
    if "images" not in inputs or "splits" not in inputs["images"].properties:
        return missing(COUNTED, artifact, "its images")
    images, limit = int(inputs["images"].properties["splits"]["test"]), int(artifact.manifest.config["limit"])
    expected = min(images, limit) if limit else images
    rows = sum(_rows(artifact, "images/").values())
    text = f"{rows} reconstructions, {expected} of {images} held-out images were requested"
    return _counted(rows == expected, text, artifact, {"rows": rows, "wanted": expected})


def check_sample(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """As many samples as were requested."""
    expected, rows = int(artifact.manifest.config["count"]), sum(_rows(artifact, "images/").values())
    return _counted(rows == expected, f"{rows} samples of {expected}", artifact, {"rows": rows, "wanted": expected})


def check_select(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """As many of each class at every rate as were requested."""
    properties = artifact.properties
    if "rates" not in properties or "classes" not in properties:
        return missing(COUNTED, artifact, "its rates or classes")
    expected, rates = int(artifact.manifest.config["count"]) * len(properties["classes"]), len(properties["rates"])
    rows = _rows(artifact, "images/")
    passed = len(rows) == rates and set(rows.values()) == {expected}
    return _counted(passed, f"{rows} images, {expected} at each of {rates} rates", artifact, rows)


def check_lineage(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Codes belong to the tokenizer, the prior to the codes, samples to the prior, and all to their images."""
    properties = artifact.properties
    lacking = [name for name in RECORDED.get(artifact.manifest.component, ()) if name not in properties]
    if lacking:
        return missing(LINEAGE, artifact, f"the digest of its {', '.join(lacking)}")
    wrong = [
        f"its manifest names {name} {str(properties[name])[:12]}, its input is {inputs[name].digest[:12]}"
        for name in INPUT_DIGESTS
        if name in properties and name in inputs and properties[name] != inputs[name].digest
    ]
    own = lineage.recorded_digests(properties) if lineage.TOKENIZER in properties else None
    for name, source in sorted(inputs.items()) if own else []:
        theirs = (
            lineage.tokenizer_digests(source) if name == "tokenizer" else lineage.recorded_digests(source.properties)
        )
        if own and lineage.TOKENIZER in theirs and not lineage.same_codes(own, theirs):
            wrong.append(f"it {lineage.mismatch(own, theirs, 'was made by')} of its {name}")
    if wrong:
        return Verdict(LINEAGE, False, "; ".join(wrong), remake(artifact))
    chain = ", ".join(f"{name} {source.digest[:12]}" for name, source in sorted(inputs.items()))
    return Verdict(LINEAGE, True, f"made from {chain}" if chain else "made from nothing but its source")


def check_finite(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Every metric and the last logged losses are finite, and few updates were skipped as non-finite."""
    manifest, bound = artifact.manifest, config.gates.nonfinite_share
    wrong = [name for name, value in manifest.metrics.items() if not math.isfinite(value)]
    for row in last_rows(artifact)[-1:]:
        wrong += [f"{name} at step {row['step']}" for name, value in row["m"].items() if not math.isfinite(value)]
    if wrong:
        remedy = f"find the cause in its curves, then `{command('run', manifest.component, '--force')}`"
        return Verdict(FINITE, False, f"not finite: {', '.join(wrong[:4])}", remedy)
    skipped = 0
    if entry(artifact, NONFINITE) is not None:
        skipped = len({json.loads(line)["step"] for line in io.read_bytes(artifact.uri(NONFINITE)).splitlines()})
    if not skipped:
        return Verdict(FINITE, True, "every figure is finite, no update was skipped", figures={"skipped": 0.0})
    if "steps" not in manifest.config:
        return missing(FINITE, artifact, "its number of steps")
    steps = int(manifest.config["steps"])
    share = skipped / steps
    text = f"{skipped} of {steps} updates were skipped as not finite ({share:.2%}), at most {bound:.2%} may be"
    remedy = (
        f"{NONFINITE} in its folder names steps, terms and samples; lower {manifest.component}.optim.lr, mend the "
        f"data, or accept it with gates.nonfinite_share={min(1.0, math.ceil(share * 1000) / 1000)}"
    )
    return Verdict(FINITE, skipped <= bound * steps, text, remedy, {"skipped": float(skipped)})


def check_codebook_usage(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Enough of the codes were in use when the tokenizer's training ended."""
    bound, rows = config.gates.codebook_usage, last_rows(artifact)
    logged = [(row["step"], name, float(row["m"][name])) for row in rows for name in USAGES if name in row["m"]]
    if not logged:
        return missing(USAGE, artifact, f"the codebook's use ({CURVES} has no {USAGES[0]})")
    step = logged[-1][0]
    _, name, usage = next(entry for entry in logged if entry[0] == step)
    text = f"{name} {usage:.3g} at step {step}, at least {bound:g} is required"
    remedy = (
        "its codes have collapsed: train longer, switch on quantize.codebook.restart.every or change "
        f"quantize.codebook.codes, or accept it with gates.codebook_usage={math.floor(usage * 1000) / 1000:g}"
    )
    return Verdict(USAGE, usage >= bound, text, remedy, {"usage": usage})


GATES: dict[str, dict[str, Gate]] = {
    "ingest": {COUNTED: check_ingest, SUFFICIENT: check_sufficient},
    "classify": {FINITE: check_finite, LINEAGE: check_lineage},
    "selector": {FINITE: check_finite, LINEAGE: check_lineage},
    "statistics": {FINITE: check_finite},
    "quantize": {FINITE: check_finite, USAGE: check_codebook_usage, LINEAGE: check_lineage},
    "tokenize": {COUNTED: check_tokenize, LINEAGE: check_lineage},
    "reconstruct": {COUNTED: check_reconstruct, LINEAGE: check_lineage},
    "prior": {FINITE: check_finite, LINEAGE: check_lineage},
    "sample": {COUNTED: check_sample, LINEAGE: check_lineage},
    "select": {COUNTED: check_select, LINEAGE: check_lineage},
    "score": {FINITE: check_finite},
    "tradeoff": {FINITE: check_finite},
    "probe": {FINITE: check_finite},
}
"""Gates by component and name; other components have none."""


def evaluate(name: str, config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> list[Verdict]:
    """The verdicts of all gates of component `name` on its artifact."""
    return [gate(config, artifact, inputs) for gate in gates_of(name).values()]


def gates_of(name: str) -> dict[str, Gate]:
    """Gates of a component, then what only gives advice."""
    return {**GATES.get(name, {}), **ADVICE.get(name, {})}


def gate_error(artifact: Artifact, verdicts: Sequence[Verdict]) -> GateError | None:
    """The error that names every failed gate, its figure, its bound and what to do; None where all have passed."""
    failed = "; ".join(f"gate {each.gate}: {each.text}. {each.remedy}" for each in verdicts if each.stops)
    name = short_name(artifact.manifest.key)
    return GateError(f"{name} is kept, but nothing is made from it: {failed}") if failed else None


def _rows(artifact: Artifact, prefix: str) -> dict[str, int]:
    """Rows by split of files such as `images/train-00001-of-00002.parquet`; splits without rows are left out."""
    rows: Counter[str] = Counter()
    for file in artifact.manifest.files:
        if file.name.startswith(prefix):
            rows[file.name.removeprefix(prefix).rsplit("-", 3)[0]] += file.rows or 0
    return dict(+rows)


def _counted(passed: bool, text: str, artifact: Artifact, figures: Mapping[str, int]) -> Verdict:
    return Verdict(COUNTED, passed, text, remake(artifact), {name: float(value) for name, value in figures.items()})
