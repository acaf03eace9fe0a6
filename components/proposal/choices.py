"""Settings that fit a survey of images and the time that there is, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from components.artifacts.counts import ImageCounts, shortfalls
from components.contract import settings
from components.proposal.survey import Survey
from components.proposal.timing import StepTimer
from vim_core.config import PipelineConfig
from vim_core.text import flatten

GENERATING = ("ingest", "quantize", "tokenize", "reconstruct", "prior", "sample", "score", "report")
CLASSIFYING = ("classify", "selector", "statistics", "select", "probe")
FRACTIONS = (0.165, 0.2, 0.25, 0.3, 0.35)
"""Shares of held-out images that are tried, the digits' first."""
SIZES = {32: 4, 64: 8, 128: 8, 256: 16}
"""Patch by image size: 64 tokens an image, 256 for large ones."""
STACKS = (
    ({"blocks": 1, "heads": 4, "dim": 128, "mlp": 256}, {"blocks": 2, "heads": 4, "dim": 128, "mlp": 512}),
    ({"blocks": 4, "heads": 4, "dim": 256, "mlp": 1024}, {"blocks": 4, "heads": 4, "dim": 256, "mlp": 1024}),
    ({"blocks": 8, "heads": 8, "dim": 512, "mlp": 2048}, {"blocks": 8, "heads": 8, "dim": 512, "mlp": 2048}),
)
"""Encoder and decoder, smallest first; the last are the paper's Small."""
PRIORS = (
    {"blocks": 4, "heads": 4, "dim": 128, "mlp": 512},
    {"blocks": 8, "heads": 8, "dim": 256, "mlp": 1024},
    {"blocks": 12, "heads": 12, "dim": 768, "mlp": 3072},
)
START_S = 60.0
"""Seconds in which workers start and nothing is trained, as the smoke preset shows on two cores."""
OTHER_SHARE = 0.15
"""Share of the remaining time for codes, samples and figures."""
SHARES = {"quantize": 0.5, "prior": 0.3, "classify": 0.12, "selector": 0.08}
FEWEST = {"quantize": 400, "prior": 300, "classify": 150, "selector": 120}
"""Steps below which a training shows nothing."""
EPOCHS = {"quantize": 300, "prior": 10, "classify": 40, "selector": 30}
"""Passes over the training images, or all their views, after which more steps teach a small set by heart."""
MOST = 50_000
LARGER = 3000
"""Steps that must fit for a larger network to be worth it."""
SAMPLES = 300
VIEWS_ROWS = 4000
"""Rows of codes that the prior needs at least, as views of few images."""


@dataclass(frozen=True)
class Choice:
    """A setting by dotted key, or a group of settings as a mapping, with its reason."""

    key: str
    value: Any
    reason: str


@dataclass
class Proposal:
    """Settings with reasons, and what they make: `config`; `seconds` that the run takes by measured steps."""

    name: str
    choices: list[Choice] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, key: str, value: Any, reason: str) -> None:
        """Choose a value."""
        self.choices.append(Choice(key, value, reason))

    @property
    def config(self) -> PipelineConfig:
        """The preset's settings, checked. Raises `ConfigError` for values that contradict each other."""
        values: dict[str, Any] = {"preset": self.name}
        for choice in self.choices:
            group = flatten(choice.value, f"{choice.key}.") if isinstance(choice.value, Mapping) else None
            values |= group if group is not None else {choice.key: choice.value}
        return settings.with_values(PipelineConfig(), values)


def propose(found: Survey, timer: StepTimer, minutes: float, name: str) -> Proposal:
    """Settings for a run of about `minutes` on this machine that the images suffice for."""
    fraction = held_out_fraction(found)
    counts = found.counts(fraction)
    proposal = Proposal(name)
    classified = choose_components(proposal, found, counts)
    choose_ingest(proposal, found, fraction)
    if classified:
        proposal.add("prior.label_dropout", 0.15, "trains the null class, which guidance and the probe need")
    else:
        proposal.add("prior.conditional", False, "there are no classes to condition on")
    tier = choose_tokenizer(proposal, found, counts, timer, minutes, classified)
    choose_prior(proposal, counts, tier)
    if classified:
        choose_classifiers(proposal, counts)
    choose_samples(proposal, counts, classified)
    choose_steps(proposal, counts, timer, minutes)
    choose_score_splits(proposal, counts)
    proposal.add("report.title", f"VIM on {name}", "the page's heading")
    return proposal


def held_out_fraction(found: Survey) -> float:
    """The share of held-out images: the first of `FRACTIONS` that leaves every class images on both sides."""
    for fraction in FRACTIONS:
        counts = found.counts(fraction)
        train, test = (counts.class_counts.get(split, ()) for split in ("train", "test"))
        few = min(24, sum(counts.splits.values()) // 5)
        if min(train, default=1) >= 1 and min(test, default=1) >= 1 and counts.splits["test"] >= few:
            return fraction
    return FRACTIONS[2]


def choose_components(proposal: Proposal, found: Survey, counts: ImageCounts) -> bool:
    """Choose the components; True where classes are told apart."""
    classes = len(counts.classes)
    classified = classes > 1 and min(counts.class_counts["train"]) >= 1 and counts.splits["test"] > 1
    wanted = set(GENERATING) | (set(CLASSIFYING) if classified else set())
    reason = "from images to samples and their figures"
    if classified:
        reason += "; add tradeoff for curves over guidance and acceptance"
        if classes > SAMPLES // 4:
            wanted -= {"selector", "select"}
            reason += f"; select would need four samples of each of {classes} classes"
        if counts.splits["train"] < 60:
            wanted -= {"probe"}
            reason += "; so few images say nothing of a linear probe"
    elif classes == 1:
        reason += f"; all images are {counts.classes[0]!r}, so there are no classes to judge by"
    else:
        reason += "; nothing judges by classes, because the images have none"
    from components.contract.registry import NAMES

    proposal.add("components", [name for name in NAMES if name in wanted], reason)
    return classified


def choose_ingest(proposal: Proposal, found: Survey, fraction: float) -> None:
    """Choose source, split and what may be unusable."""
    proposal.add("ingest.source", found.source, f"laid out as {found.layout}")
    if not found.labelled:
        proposal.add("ingest.labelled", False, "the images are in no class folders and have no labels")
    if found.split == "folders":
        proposal.add("ingest.split", "folders", "the source has a validation part of its own")
    else:
        proposal.add("ingest.split", "hash", "the source has no validation part: a share of the images is held out")
        proposal.add("ingest.test_fraction", fraction, "of each hundred images; enough of every class on both sides")
    shards = max(1, min(64, found.listed // 5000))
    proposal.add("ingest.shards", shards, "a file for every 5,000 images")
    if found.bad_share > 0.005:
        share = min(1.0, math.ceil(found.bad_share * 130) / 100)
        worst = ", ".join(f"{count} {reason}" for reason, count in found.unusable.most_common(2))
        proposal.add("ingest.max_bad_share", share, f"some files cannot be used ({worst})")


def choose_tokenizer(
    proposal: Proposal, found: Survey, counts: ImageCounts, timer: StepTimer, minutes: float, classified: bool
) -> int:
    """Choose size and networks by measured steps; returns the number of the stack in `STACKS`."""
    trained, share = _training_seconds(minutes), SHARES["quantize"] if classified else 0.6
    sizes = [size for size in SIZES if size <= max(32, found.side)]
    fits: tuple[int, int] | None = None
    tried: list[str] = []
    size, tier = sizes[0], 0
    batch = _batch(counts)
    codes = codebook_size(counts, batch, 64)
    while True:
        candidate = Proposal(proposal.name, [*proposal.choices, *tokenizer_choices(size, tier, batch, codes)])
        seconds = timer(candidate.config, ["quantize"])["quantize"]
        steps = trained * share / seconds
        tried.append(f"{size} pixels {seconds * 1000:.0f} ms a step")
        if fits is not None and steps < (FEWEST["quantize"] if tier == 0 else LARGER):
            break
        fits = size, tier
        if size < sizes[-1] and steps > 4 * FEWEST["quantize"]:
            size = sizes[sizes.index(size) + 1]
        elif tier + 1 < len(STACKS) and steps > 8 * LARGER:
            tier += 1
        else:
            break
    size, tier = fits
    reason = f"the images are {found.sides[0]} to {found.sides[-1]} pixels on the shorter side; {', '.join(tried)}"
    proposal.choices += tokenizer_choices(size, tier, batch, codes, reason)
    return tier


def tokenizer_choices(size: int, tier: int, batch: int, codes: int, measured: str = "") -> list[Choice]:
    """Settings of stage 1 without its steps."""
    encoder, decoder = STACKS[tier]
    patch = SIZES[size]
    dim = 8 if codes <= 256 else 16 if codes <= 2048 else 32
    augment = {"zoom": 0.1, "shift": 0.06}
    restart = {"every": 10, "threshold": 0.2, "decay": 0.9, "until": 0.8}
    loss = {"l2": 5.0, "logit_laplace": 0.01, "perceptual": 0.0, "adversarial": 0.0}
    return [
        Choice("quantize.image_size", size, measured),
        Choice("quantize.patch", patch, f"{(size // patch) ** 2} tokens an image"),
        Choice("quantize.batch", batch, "few images a step and many steps"),
        Choice("quantize.encoder", encoder, "so few steps teach a small network more than a large one"),
        Choice("quantize.decoder", decoder, "the decoder has more to learn than the encoder"),
        Choice(
            "quantize.codebook.codes",
            codes,
            "some 64 training tokens a code or more, and 8 in each step, so that all come into use",
        ),
        Choice("quantize.codebook.dim", dim, f"enough directions for {codes} codes"),
        Choice("quantize.codebook.restart", restart, "without restarts most codes of a short training are never used"),
        Choice("quantize.codebook.entropy", {"weight": 0.02}, "keeps colours: without it codes follow brightness"),
        Choice("quantize.loss", loss, "plain pixels: the other terms need more steps, and the perceptual one weights"),
        Choice("quantize.augment", augment, "no flip: whether a mirrored image is still one of its kind is not known"),
    ]


def choose_prior(proposal: Proposal, counts: ImageCounts, tier: int) -> None:
    """Choose views of the codes and the network of stage 2."""
    train = counts.splits["train"]
    views = max(1, min(24, math.ceil(VIEWS_ROWS / max(1, train))))
    proposal.add("tokenize.views", views, f"of each of {train:,} training images: few images need many")
    if views > 1:
        proposal.add("tokenize.augment", {"zoom": 0.1, "shift": 0.06}, "as in training the tokenizer")
    proposal.add("prior.batch", max(16, _batch(counts)), "as many codes a step as the tokenizer sees")
    proposal.add("prior.stack", PRIORS[tier], "of the tokenizer's order of size")
    proposal.add("prior.dropout", 0.1 if train > 2000 else 0.2, "the fewer images, the more")


def choose_classifiers(proposal: Proposal, counts: ImageCounts) -> None:
    """Choose the judge and the selector, which must differ."""
    size = next(int(choice.value) for choice in proposal.choices if choice.key == "quantize.image_size")
    side, batch = min(64, size), min(64, _batch(counts))
    names = next(choice.value for choice in proposal.choices if choice.key == "components")
    for name, width in (("classify", 32), ("selector", 24)):
        if name not in names:
            continue
        reason = "judges samples" if name == "classify" else "selects samples: another seed and width than the judge's"
        proposal.add(f"{name}.batch", batch, reason)
        proposal.add(f"{name}.image_size", side, "small pictures show their class")
        proposal.add(f"{name}.width", width, "channels of the first layer")
        proposal.add(f"{name}.augment", {"zoom": 0.1, "shift": 0.06}, "as in training the tokenizer")
        proposal.add(f"{name}.optim", {"lr": 2e-3, "final_lr": 2e-5, "warmup": 20}, "as on the digits")


def choose_samples(proposal: Proposal, counts: ImageCounts, classified: bool) -> None:
    """Choose how many samples are drawn, selected and compared with which images."""
    names = next(choice.value for choice in proposal.choices if choice.key == "components")
    classes, test = max(1, len(counts.classes)) if classified else 1, counts.splits["test"]
    each = max(1, min(100, SAMPLES // classes))
    proposal.add(
        "sample.count", each * classes, f"{each} of each of {classes} classes" if classified else "a page full"
    )
    proposal.add("sample.lanes", min(64, each * classes), "drawn at a time")
    if classified:
        proposal.add("sample.guidance", 2.0, "the digits' best")
    if "select" in names:
        proposal.add("select.count", each // 2, f"at the rate 0.5 it needs all {each} samples of a class")
        proposal.add("select.rates", [1.0, 0.5], "a stricter rate needs more samples")
    if "statistics" in names:
        halves = ["test"] if test >= 500 else ["train", "test"]
        proposal.add("statistics.halves", halves, f"{test} held-out images alone would be few to halve")
        proposal.add("statistics.features", 2000 if test > 5 else 0, "images at most for precision and recall")
    total = sum(counts.splits.values())
    reason = "the paper's number of images" if total >= 256 else "all images; the paper has 256"
    reason += "; held-out ones first, then training images" if test < 256 else ""
    proposal.add("score.usage_batch", min(256, total), reason)
    if "statistics" in names:
        proposal.add("score.neighbours", min(200, each * classes), "samples whose nearest training images are shown")
    if "probe" in names:
        steps = max(50, min(400, counts.splits["train"] * 2 // 64))
        proposal.add("probe.steps", steps, "about two epochs of the training images and their views")
        proposal.add("probe.batch", min(64, _batch(counts) * 2), "images a step")
        proposal.add("probe.pixels", 16, "finer pixels correlate strongly")


def choose_steps(proposal: Proposal, counts: ImageCounts, timer: StepTimer, minutes: float) -> None:
    """Choose the steps of all trainings by measured steps and the time."""
    config = proposal.config
    names = [name for name in SHARES if name in config.components]
    seconds = timer(config, names)
    trained, total = _training_seconds(minutes), sum(SHARES[name] for name in names)
    training = 0.0
    for name in names:
        batch = getattr(config, name).batch
        rows = counts.splits["train"] * (config.tokenize.views if name == "prior" else 1)
        most = max(FEWEST[name], min(MOST, EPOCHS[name] * rows // batch))
        fit = int(trained * SHARES[name] / total / seconds[name])
        steps = max(FEWEST[name], min(most, fit // 10 * 10))
        why = "all that the images are good for" if steps == most else "what the time allows"
        if steps > max(fit, 10):
            why = "the fewest that show something; more than the time allows"
        proposal.add(f"{name}.steps", steps, f"{seconds[name] * 1000:.0f} ms each, measured here; {why}")
        if name in ("quantize", "prior"):
            lr = 2e-3 if name == "quantize" and batch <= 32 else 1e-3
            optim = {"lr": lr, "final_lr": lr / 20, "warmup": max(10, steps // 20), "beta2": 0.95}
            clip = {"clip_norm": 4.0, "weight_decay": 4.5e-2} if name == "prior" else {}
            proposal.add(f"{name}.optim", optim | clip, "high rates, for short trainings")
            proposal.add(f"{name}.checkpoint_every", max(50, steps // 5), "five checkpoints with pictures")
        training += steps * seconds[name]
    proposal.seconds = START_S + training / (1 - OTHER_SHARE)


def choose_score_splits(proposal: Proposal, counts: ImageCounts) -> None:
    """Choose as many splits of the Inception Score as all sets of images fill."""
    if "statistics" not in proposal.config.components:
        return
    for splits in (10, 5, 3, 2, 1, 0):
        candidate = Proposal(proposal.name, [*proposal.choices, Choice("statistics.score_splits", splits, "")])
        if not any("score_splits" in text for text in shortfalls(candidate.config, counts)):
            break
    reason = (
        "splits of the Inception Score, none of which is empty" if splits else "too few images for a score of splits"
    )
    proposal.add("statistics.score_splits", splits, reason)


def _training_seconds(minutes: float) -> float:
    """Time for the trainings of a run of so many minutes."""
    return max(0.4 * minutes * 60, minutes * 60 - START_S) * (1 - OTHER_SHARE)


def _batch(counts: ImageCounts) -> int:
    """Images a step: 16 to 64, not more than there are."""
    train = counts.splits["train"]
    return 64 if train >= 20_000 else 32 if train >= 1000 else 16 if train >= 16 else max(2, train)


def codebook_size(counts: ImageCounts, batch: int, tokens: int) -> int:
    """A power of two from 32 up, with some 64 training tokens or more a code, and 8 in each step."""
    most = min(counts.splits["train"] * tokens / 64, batch * tokens / 8)
    return int(2 ** max(5, math.floor(math.log2(max(1.0, most)))))
