"""Advice on trainings: signs that little was learnt, with their figures and the settings that help; nothing stops.

Usage, colours and PSNR of the tokenizer; losses that still fall; a prior no better than code frequencies; a classifier
no better than guessing; samples that are not of their class.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from components.artifacts.verdicts import Gate, Verdict, last_rows
from components.contract.api import Artifact, Inputs
from vim_core.config import PipelineConfig

LEARNT, PICTURES = "learnt", "pictures_kept"
LOW_USAGE = 0.5
"""Share of codes in use below which a smaller codebook would do."""
FALLING = {"quantize": ("l2", 0.25), "prior": ("loss", 0.08)}
"""Loss whose fall from the eighth tenth of the training to the last counts, and the share that is much."""
UNIGRAM = 0.98
"""Cost of held-out codes over that of their frequencies, above which a prior has learnt nothing of their order."""
BY_HEART = 1.5
"""Cost of held-out codes over that of training codes, above which the prior knows the training images by heart."""
GUESSING = 0.2
"""Share of the way from guessing to being always right that a classifier should have gone."""
PAIRS = 64
"""Held-out images that are compared with their reconstructions."""
KEPT_COLOUR, COLOURED = 0.5, 0.04
"""Least share of the originals' colour that reconstructions keep; least colour of originals to speak of."""
ABOVE_MEAN_DB = 1.0
"""Least gain in PSNR over an image's mean colour."""


def check_tokenizer(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Half of the codes are in use when the training ends, and its loss no longer falls."""
    logged = [row["m"]["codebook_usage"] for row in last_rows(artifact) if "codebook_usage" in row["m"]]
    usage = logged[-1] if logged else 1.0
    found = {}
    if usage < LOW_USAGE:
        found[f"{usage:.0%} of the codes are in use"] = _codebook_advice(config)
    return _verdict(artifact, found | _still_falling(config, artifact), {"usage": float(usage)})


def check_prior(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Held-out codes cost less than by their frequencies, not much more than training codes; the loss has settled."""
    metrics, found = artifact.manifest.metrics, {}
    held_out, unigram = metrics.get("nll_bits_per_token"), metrics.get("unigram_bits_per_token")
    if held_out is None or unigram is None:
        return _unknown("the cost of held-out codes")
    losses = [row["m"]["loss"] for row in last_rows(artifact) if "loss" in row["m"]][-3:]
    trained = sum(losses) / len(losses) / math.log(2) if losses else held_out
    if held_out > UNIGRAM * unigram:
        what = f"held-out codes cost {held_out:.2f} bits, by their frequencies alone {unigram:.2f}"
        found[what] = _more_training(config, "prior") if held_out < BY_HEART * trained else _more_views(config)
    elif held_out > BY_HEART * trained:
        what = f"held-out codes cost {held_out:.2f} bits and training codes {trained:.2f}: it knows them by heart"
        found[what] = _more_views(config)
    return _verdict(artifact, found | _still_falling(config, artifact), {"bits": held_out, "unigram": unigram})


def check_classifier(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """It is right on held-out images more often than always naming the largest class would be."""
    from vim_core.metrics.intervals import wilson_interval

    accuracy = artifact.manifest.metrics.get("test_accuracy")
    counts = inputs["images"].properties.get("class_counts", {}).get("test") if "images" in inputs else None
    if accuracy is None or not counts:
        return _unknown("its accuracy or the images of each class")
    guess, name = max(counts) / sum(counts), artifact.manifest.component
    found = {}
    count = sum(counts)
    # Of few images the share says little: only one that is surely low is.
    if wilson_interval(round(accuracy * count), count)[1] < guess + GUESSING * (1 - guess):
        what = f"it is right on {accuracy:.0%} of held-out images, and always naming one class is on {guess:.0%}"
        steps = getattr(config, name).steps
        found[what] = [f"more {name}.steps (now {steps})", "more images", f"leave out what {name} judges"]
    return _verdict(artifact, found, {"accuracy": accuracy, "guess": guess})


def check_samples(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Samples are of the class they were drawn for more often than by chance."""
    accuracy = artifact.manifest.metrics.get("conditional_accuracy")
    classes = len(inputs["images"].properties.get("classes", ())) if "images" in inputs else 0
    found = {}
    if accuracy is not None and classes > 1 and accuracy < (1 + GUESSING) / classes:
        what = f"{accuracy:.0%} of samples are of their class, by chance {1 / classes:.0%} are"
        guidance = config.sample.guidance
        found[what] = [f"more prior.steps (now {config.prior.steps})", f"a higher sample.guidance (now {guidance:g})"]
    return _verdict(artifact, found, {} if accuracy is None else {"accuracy": accuracy})


def check_pictures(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Reconstructions keep the colours of held-out images and are nearer to them than their mean colour is."""
    if "images" not in inputs:
        return _unknown("its images", PICTURES)
    figures = compare_pictures(inputs["images"], artifact)
    if not figures:
        return _unknown("originals of its images", PICTURES)
    found = {}
    if figures["colour"] >= COLOURED and figures["kept"] < KEPT_COLOUR:
        found[f"reconstructions keep {figures['kept']:.0%} of the originals' colour"] = _codebook_advice(config)
    if figures["psnr_db"] < figures["mean_colour_db"] + ABOVE_MEAN_DB:
        mean = figures["mean_colour_db"]
        what = f"PSNR {figures['psnr_db']:.1f} dB, and each image's mean colour alone gives {mean:.1f} dB"
        found[what] = _codebook_advice(config)
    return _verdict(artifact, found, figures, PICTURES)


ADVICE: dict[str, dict[str, Gate]] = {
    "classify": {LEARNT: check_classifier},
    "selector": {LEARNT: check_classifier},
    "quantize": {LEARNT: check_tokenizer},
    "reconstruct": {PICTURES: check_pictures},
    "prior": {LEARNT: check_prior},
    "score": {LEARNT: check_samples},
}
"""Advice by component and name."""


def remarks(config: PipelineConfig, artifacts: Mapping[str, Artifact]) -> list[dict[str, str]]:
    """Advice on these artifacts by component: component, text and remedy of each."""
    given = [
        (name, gate(config, artifacts[name], _inputs(artifacts[name], artifacts)))
        for name, gates in ADVICE.items()
        for gate in gates.values()
        if name in artifacts
    ]
    return [{"component": name, "text": each.text, "remedy": each.remedy} for name, each in given if not each.passed]


def _inputs(artifact: Artifact, artifacts: Mapping[str, Artifact]) -> Inputs:
    records = artifact.manifest.inputs
    return {name: artifacts[each.component] for name, each in records.items() if each.component in artifacts}


def compare_pictures(images: Artifact, reconstructions: Artifact) -> dict[str, float]:
    """Figures of the first reconstructions and their originals.

    Mean PSNR of reconstructions, and of each original's mean colour in its place; `colour`: mean largest difference
    between the channels of a pixel of originals, in [0, 1], and the share `kept` of it. Empty without a pair.
    """
    import numpy as np

    psnr, mean_psnr, colours = [], [], []
    for original, copy in islice(_pairs(images, reconstructions), PAIRS):
        flat = np.broadcast_to(original.mean(axis=(0, 1)), original.shape)
        psnr.append(_psnr_db(original, copy))
        mean_psnr.append(_psnr_db(original, flat))
        colours.append([float((side.max(axis=2) - side.min(axis=2)).mean()) for side in (original, copy)])
    if not colours:
        return {}
    colour, kept = np.mean(colours, axis=0).tolist()
    figures = {"psnr_db": float(np.mean(psnr)), "mean_colour_db": float(np.mean(mean_psnr))}
    return figures | {"colour": colour, "kept": kept / max(colour, 1e-6)}


def _pairs(images: Artifact, reconstructions: Artifact) -> Iterator[tuple[Any, Any]]:
    """Originals and reconstructions [S, S, 3] in [0, 1]. A table of reconstructions has the name of its originals'."""
    from vim_core.data.image_tables import ImageTable
    from vim_core.data.images import center_crop, decode

    limit = int(images.manifest.config["max_pixels"])
    names = {entry.name for entry in images.manifest.files if entry.name.startswith("images/test-")}
    for name in sorted(names & {entry.name for entry in reconstructions.manifest.files}):
        originals, again = (ImageTable([each.uri(name)], cached_groups=1) for each in (images, reconstructions))
        rows = {key: row for row, key in enumerate(originals.keys)}
        for row, key in enumerate(again.keys):
            if key in rows:
                copy = decode(again.image(row), limit).astype(float) / 255
                yield center_crop(decode(originals.image(rows[key]), limit), copy.shape[0]).astype(float) / 255, copy


def _psnr_db(first: Any, second: Any) -> float:
    return float(-10 * math.log10(max(float(((first - second) ** 2).mean()), 1e-10)))


def _still_falling(config: PipelineConfig, artifact: Artifact) -> dict[str, list[str]]:
    """A loss that falls much from the eighth tenth of the training to the last."""
    name = artifact.manifest.component
    loss, much = FALLING[name]
    settings = getattr(config, name)
    rows = [(row["step"] / settings.steps, row["m"][loss]) for row in last_rows(artifact) if loss in row["m"]]
    before = [value for share, value in rows if 0.7 < share <= 0.8]
    last = [value for share, value in rows if share > 0.9]
    if not before or not last:
        return {}
    first, end = sum(before) / len(before), sum(last) / len(last)
    fall = (first - end) / abs(first) if first else 0.0
    if fall < much:
        return {}
    return {
        f"{loss} still falls: by {fall:.0%} from {first:.4g} in the last two tenths of the steps": _more_training(
            config, name
        )
    }


def _codebook_advice(config: PipelineConfig) -> list[str]:
    """Settings that bring codes into use, those that are off first."""
    settings, codebook = config.quantize, config.quantize.codebook
    off = ["quantize.codebook.restart.every=10"] if not codebook.restart.every else []
    off += ["quantize.codebook.entropy.weight=0.02"] if not codebook.entropy.weight else []
    more = [f"more quantize.steps (now {settings.steps})", f"another quantize.optim.lr (now {settings.optim.lr:g})"]
    return [*off, *more, f"fewer quantize.codebook.codes (now {codebook.codes})"]


def _more_training(config: PipelineConfig, name: str) -> list[str]:
    settings = getattr(config, name)
    return [f"more {name}.steps (now {settings.steps})", f"a higher {name}.optim.lr (now {settings.optim.lr:g})"]


def _more_views(config: PipelineConfig) -> list[str]:
    return [
        f"more tokenize.views (now {config.tokenize.views}) with tokenize.augment",
        f"more prior.dropout (now {config.prior.dropout:g})", "fewer prior.steps, or more images",
    ]  # fmt: skip


def _unknown(what: str, gate: str = LEARNT) -> Verdict:
    return Verdict(gate, True, f"not judged: its manifest lacks {what}", blocking=False)


def _verdict(
    artifact: Artifact, found: Mapping[str, list[str]], figures: Mapping[str, float], gate: str = LEARNT
) -> Verdict:
    text = "; ".join(found) or "nothing looks suspicious"
    remedy = "try " + ", ".join(dict.fromkeys(way for ways in found.values() for way in ways)) if found else ""
    return Verdict(gate, not found, text, remedy, figures, blocking=False)
