"""Which head is chosen, and how it is written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class HeadResult:
    """A chosen head: its settings, its accuracy on the validation images, and that of its like on the test split.

    `learning_rate` is None for ridge regression, whose penalty (times rows) is `weight_decay`.
    """

    learning_rate: float | None
    weight_decay: float
    validation_accuracy: float
    accuracy: float


@dataclass(frozen=True)
class ProbeResult:
    """Of one set of features: the best softmax layer, and the best ridge regression if there is any."""

    softmax: HeadResult
    ridge: HeadResult | None


def select_heads(
    pairs: Sequence[tuple[float, float]],
    penalties: Sequence[float],
    validation: Sequence[float],
    test: Sequence[float],
) -> ProbeResult:
    """The choice by accuracy on validation images; the test split is read of the chosen heads alone.

    Args:
        pairs: learning rate and weight decay of each softmax layer.
        penalties: of each ridge regression.
        validation: accuracies of both, one after the other.
        test: likewise.
    """
    settings: list[tuple[float | None, float]] = [*pairs, *((None, penalty) for penalty in penalties)]
    heads = [HeadResult(*pair, *scores) for pair, *scores in zip(settings, validation, test, strict=True)]
    split = len(pairs)
    return ProbeResult(_best(heads[:split]), _best(heads[split:]) if penalties else None)


def _best(heads: Sequence[HeadResult]) -> HeadResult:
    return max(heads, key=lambda head: head.validation_accuracy)


def accuracy_json(blocks: Sequence[ProbeResult], pixels: ProbeResult | None) -> dict[str, Any]:
    """What `accuracy.json` says: for each block and the pixels `accuracy`, `validation_accuracy`, `learning_rate` and
    `weight_decay` of the softmax layer, and under `ridge` the same of the regression, `penalty` being its own.
    """
    written: dict[str, Any] = {"blocks": [_entry(block) for block in blocks]}
    return written | ({"pixels": _entry(pixels)} if pixels else {})


def _entry(one: ProbeResult) -> dict[str, Any]:
    head, ridge = one.softmax, one.ridge
    entry: dict[str, Any] = {
        "accuracy": head.accuracy,
        "validation_accuracy": head.validation_accuracy,
        "learning_rate": head.learning_rate,
        "weight_decay": head.weight_decay,
    }
    if ridge is not None:
        entry["ridge"] = {
            "accuracy": ridge.accuracy,
            "validation_accuracy": ridge.validation_accuracy,
            "penalty": ridge.weight_decay,
        }
    return entry


def accuracy_csv(sets: Mapping[str, ProbeResult]) -> str:
    """One line for each set of features and kind of head, as CSV."""
    lines = ["features,head,learning_rate,weight_decay,validation_accuracy,test_accuracy"]
    for name, one in sets.items():
        for kind, head in (("softmax", one.softmax), ("ridge", one.ridge)):
            if head is not None:
                rate = "" if head.learning_rate is None else f"{head.learning_rate:g}"
                scores = f"{head.validation_accuracy:.6f},{head.accuracy:.6f}"
                lines.append(f"{name},{kind},{rate},{head.weight_decay:g},{scores}")
    return "\n".join(lines) + "\n"
