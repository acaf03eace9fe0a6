"""The linear probe's section: accuracy per block for each kind of head, beside raw pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.report import results as figures
from components.report import svg


@dataclass(frozen=True)
class Block:
    """One block's line of the table."""

    index: int
    accuracy: str
    ridge: str
    best: bool


@dataclass(frozen=True)
class Section:
    """Chart, table and what must be said of the features."""

    chart: str
    blocks: tuple[Block, ...]
    baseline: str
    ridge: bool
    tokenizer: str


def section(results: Mapping[str, Any]) -> Section | None:
    """The probe's section, or None without a probe."""
    known = results.get("probe", {})
    accuracies, ridge = known.get("accuracy_per_block"), known.get("ridge_accuracy_per_block") or []
    if not accuracies:
        return None
    baseline = known.get("pixel_baseline_top1")
    best = max(range(len(accuracies)), key=accuracies.__getitem__)
    label = f"Probe accuracy per block, best {_share(accuracies[best])} at block {best}"
    if ridge:
        label += f"; by ridge regression at most {_share(max(ridge))}"
    return Section(
        svg.marks(accuracies, [str(i) for i in range(len(accuracies))], baseline, label, ridge),
        tuple(
            Block(i, _share(value), _share(ridge[i]) if i < len(ridge) else "–", i == best)
            for i, value in enumerate(accuracies)
        ),
        "" if baseline is None else _share(baseline),
        bool(ridge),
        tokenizer(results),
    )


def tokenizer(results: Mapping[str, Any]) -> str:
    """Whether the codes saw labels: the perceptual loss carries those of the network behind it (section 3.3)."""
    perceptual = results.get("tokenizer", {}).get("perceptual")
    if perceptual is None:
        return ""
    if perceptual:
        return (
            "The tokenizer was trained with the perceptual loss, whose network was trained on labels: the paper leaves "
            "it out for its probes, so this accuracy stands apart from its Table 7."
        )
    return "The tokenizer was trained without the perceptual loss, as the paper's was, so that no label reached it."


def _share(value: float) -> str:
    return figures.shown(value, "share")
