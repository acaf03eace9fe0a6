"""Updates that were skipped because something was not finite: flags stay on the device, the host reads them rarely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from vim_core.errors import NonFiniteError

if TYPE_CHECKING:
    from vim_core.tasks.base import Task
    from vim_core.training.spool import Spool

CONSEQUENCES = ("loss", "gradient")
"""Last in every list of names: they are named only where no single term was to blame."""
SHOWN = 8


@dataclass(frozen=True)
class NonFiniteUpdate:
    """A step at which an update was skipped, and what was not finite there."""

    step: int
    terms: tuple[str, ...]


class NonFiniteTracker:
    """Which terms of which steps were not finite, since the host last asked.

    One small tensor an update stays alive until `take`: whoever steps a task without the loop calls it, too.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[int, tuple[str, ...], Tensor]] = []

    def record(self, step: int, names: Sequence[str], flags: Tensor) -> None:
        """Keep one update's flags [len(names)], positive where something was not finite; nothing is read yet.

        Flags must be the same on every worker, so that all of them halt at once.
        """
        # Kept one by one: a running maximum would make an interval's first step another program than the rest.
        self._kept.append((step, tuple(names), flags))

    def drain(self) -> list[NonFiniteUpdate]:
        """The faults noted since the last call, in step order; waits for the device."""
        kept, self._kept = self._kept, []
        found: dict[int, list[str]] = {}
        for step, names, flags in kept:
            broken = [name for name, flag in zip(names, flags.tolist(), strict=True) if flag > 0]
            causes = [name for name in broken if name.rsplit(".", 1)[-1] not in CONSEQUENCES]
            if broken:
                found.setdefault(step, []).extend(causes or broken)
        return [NonFiniteUpdate(step, tuple(terms)) for step, terms in sorted(found.items())]


def raise_nonfinite(task: Task, spool: Spool | None) -> None:
    """Record the faults since the last call in the spool of rank 0, with the samples of their batches.

    Every worker calls it at the same steps.

    Raises:
        NonFiniteError: there was one and `on_nonfinite` is `halt`.
    """
    faults = task.nonfinite.drain()
    for fault in faults:
        if spool is not None:
            spool.write_nonfinite(fault.step, fault.terms, task.sample_ids(fault.step))
    if faults and task.config.on_nonfinite == "halt":
        raise NonFiniteError(_message(faults[0], task.sample_ids(faults[0].step)))


def _message(fault: NonFiniteUpdate, samples: Sequence[str]) -> str:
    shown = ", ".join(samples[:SHOWN]) + (
        f" and {len(samples) - SHOWN} more (all in the spool)" if len(samples) > SHOWN else ""
    )
    return (
        f"step {fault.step}: not finite: {', '.join(fault.terms)}; samples of the batch: {shown or 'unknown'}. The "
        "weights are those before it; on_nonfinite=skip goes on without such steps"
    )
