"""Selection of the probe's heads, and the files that report them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class HeadResult:
    """A head's settings, the validation accuracy of its fit without validation images, the test accuracy of the other.

    For ridge regression `learning_rate` is None and `weight_decay` the penalty (times rows).
    """

    learning_rate: float | None
    weight_decay: float
    validation_accuracy: float
    accuracy: float


@dataclass(frozen=True)
class ProbeResult:
    """The selected heads of one set of features: the best softmax layer, and the best ridge regression, if any."""

    softmax: HeadResult
    ridge: HeadResult | None

    def record(self) -> dict[str, Any]:
        """The entry in `accuracy.json`."""
        entry: dict[str, Any] = {
            "accuracy": self.softmax.accuracy,
            "validation_accuracy": self.softmax.validation_accuracy,
            "learning_rate": self.softmax.learning_rate,
            "weight_decay": self.softmax.weight_decay,
        }
        if self.ridge is not None:
            entry["ridge"] = {
                "accuracy": self.ridge.accuracy,
                "validation_accuracy": self.ridge.validation_accuracy,
                "penalty": self.ridge.weight_decay,
            }
        return entry


def select_heads(
    pairs: Sequence[tuple[float, float]],
    penalties: Sequence[float],
    validation: Sequence[float],
    test: Sequence[float],
) -> ProbeResult:
    """Select by accuracy on validation images; only the selected heads' test accuracies are reported.

    Args:
        pairs: learning rate and weight decay of each softmax layer.
        penalties: of each ridge regression.
        validation: accuracies of the softmax layers, then of the ridge regressions.
        test: likewise.
    """
    settings: list[tuple[float | None, float]] = [*pairs, *((None, penalty) for penalty in penalties)]
    heads = [HeadResult(*pair, *scores) for pair, *scores in zip(settings, validation, test, strict=True)]

    def best(candidates: Sequence[HeadResult]) -> HeadResult:
        return max(candidates, key=lambda head: head.validation_accuracy)

    split = len(pairs)
    return ProbeResult(best(heads[:split]), best(heads[split:]) if penalties else None)


def accuracy_csv(results: Mapping[str, ProbeResult]) -> str:
    """One line for each set of features and kind of head."""
    lines = ["features,head,learning_rate,weight_decay,validation_accuracy,test_accuracy"]
    for name, result in results.items():
        for kind, head in (("softmax", result.softmax), ("ridge", result.ridge)):
            if head is not None:
                rate = "" if head.learning_rate is None else f"{head.learning_rate:g}"
                scores = f"{head.validation_accuracy:.6f},{head.accuracy:.6f}"
                lines.append(f"{name},{kind},{rate},{head.weight_decay:g},{scores}")
    return "\n".join(lines) + "\n"
