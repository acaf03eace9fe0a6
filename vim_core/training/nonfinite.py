"""Updates that were skipped because a value was not finite: flags stay on the device, the host reads them rarely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

CONSEQUENCES = ("loss", "gradient")
"""Last in every list of names: they are named only where no single term was to blame."""
SHOWN_SAMPLES = 8


@dataclass(frozen=True)
class NonFiniteUpdate:
    """A step whose update was skipped, and the terms that were not finite there."""

    step: int
    terms: tuple[str, ...]

    def message(self, samples: Sequence[str]) -> str:
        """The error's text; `samples` are the keys of the step's batch."""
        shown = ", ".join(samples[:SHOWN_SAMPLES]) or "unknown"
        if len(samples) > SHOWN_SAMPLES:
            shown += f" and {len(samples) - SHOWN_SAMPLES} more (all in the spool)"
        return (
            f"step {self.step}: not finite: {', '.join(self.terms)}; samples of the batch: {shown}. The weights are "
            "those before it; on_nonfinite=skip goes on without such steps"
        )


class NonFiniteTracker:
    """Collects the flags of every update until the host reads them.

    One small tensor an update stays alive until `drain`: code that steps a task without the loop must call it, too.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[int, tuple[str, ...], Tensor]] = []

    def record(self, step: int, names: Sequence[str], flags: Tensor) -> None:
        """Keep one update's flags [len(names)], positive where a value was not finite; nothing is read yet.

        Flags must be the same on every worker, so that all of them halt at once.
        """
        # One by one: a running maximum would make an interval's first step a different program from the rest (XLA).
        self._pending.append((step, tuple(names), flags))

    def drain(self) -> list[NonFiniteUpdate]:
        """The skipped updates since the last call, in step order; waits for the device."""
        pending, self._pending = self._pending, []
        terms: dict[int, list[str]] = {}
        for step, names, flags in pending:
            broken = [name for name, flag in zip(names, flags.tolist(), strict=True) if flag > 0]
            causes = [name for name in broken if name.rsplit(".", 1)[-1] not in CONSEQUENCES]
            if broken:
                terms.setdefault(step, []).extend(causes or broken)
        return [NonFiniteUpdate(step, tuple(names)) for step, names in sorted(terms.items())]
