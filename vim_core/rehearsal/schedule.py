"""The course of a rehearsed training: steps to warm up, to time, to profile, and after the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

PERIOD = 4
"""Steps between occurrences of what does not happen at every step (R1, restarts, log lines) in a rehearsal."""


@dataclass(frozen=True)
class Schedule:
    """Steps done at the end of each part; a checkpoint and an evaluation come after the profiled steps.

    `measured` is the number of steps to time. The warm-up has two periods, because XLA may compile a program a second
    time when its inputs come from a program instead of the host.
    """

    measured: int

    @property
    def warm(self) -> int:
        """Steps done when timing begins."""
        return 2 * PERIOD

    @property
    def timed(self) -> int:
        """Steps done when timing ends and profiling begins; whole periods are timed."""
        return self.warm + PERIOD * -(-self.measured // PERIOD)

    @property
    def checkpoint(self) -> int:
        """Steps done when profiling ends; the checkpoint after it is what a second training continues from."""
        return self.timed + PERIOD

    @property
    def steps(self) -> int:
        """All steps."""
        return self.checkpoint + PERIOD
