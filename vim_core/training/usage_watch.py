"""A watch over the codebook's usage: an alarm and an end of the training long before it would end by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from vim_core.distributed.runtimes.base import Runtime
from vim_core.errors import CollapseError
from vim_core.metrics.codebook import IMAGES

USAGE = "codebook_usage"
"""The figure of evaluations: distinct codes of 256 held-out images, as the paper counts them."""
ALARM = "codebook_alarm"
"""1 where usage is below the bound of the alarm, else 0."""


@dataclass
class UsageWatch:
    """Judges the usage that evaluations find.

    Its state is the last evaluation, which a resumed training reads from its spool.

    Args:
        alarm, halt: shares of the codebook below which people are told and the training ends; 0 for never.
        grace: steps during which nothing is judged.
        codes: size of the codebook.
        restarts: interval of restarts of dead codes, 0 for none.
    """

    alarm: float
    halt: float
    grace: int
    codes: int
    restarts: int = 0
    last: tuple[int, float] | None = field(default=None, init=False)
    _told: bool = field(default=False, init=False)
    _unmeasured: bool = field(default=False, init=False)

    def observe(self, done: int, figures: Mapping[str, float]) -> tuple[dict[str, float], str]:
        """Take the figures of an evaluation after `done` steps; returns a further figure, and a text for people or ''.

        The alarm speaks when usage falls below its bound and when it comes back, not at every evaluation.
        """
        if USAGE not in figures:
            text = f"codebook usage is not watched: it is defined on {IMAGES} held-out images, and fewer are evaluated"
            first, self._unmeasured = not self._unmeasured, True
            return {}, text if first and (self.alarm or self.halt) else ""
        self.last = done, figures[USAGE]
        low, before = self.low, self._told
        self._told = low
        text = ""
        if low and not before:
            text = f"{self._finding()}, below quantize.usage_alarm={self.alarm:g}; {self._remedy()}"
        elif before and not low:
            text = f"{self._finding()} again, above quantize.usage_alarm={self.alarm:g}"
        return {ALARM: float(low)}, text

    @property
    def low(self) -> bool:
        """True if the last evaluation after the grace found less than the alarm's bound."""
        return self.last is not None and self.last[0] >= self.grace and self.last[1] < self.alarm

    def summary(self) -> str:
        """The last finding while it is below the alarm's bound, else ''."""
        return f"{self._finding()} (alarm below {self.alarm:.0%})" if self.low else ""

    def raise_collapse(self, runtime: Runtime) -> None:
        """End the training on every worker where the first one's last evaluation found too little.

        All workers call it at the same steps, because evaluations are rank 0's: what it found is told to the others.

        Raises:
            CollapseError: usage was below `halt` after the grace.
        """
        if not self.halt:
            return
        own = torch.tensor([self.last or (-1, 1.0)], dtype=torch.float32)  # [1, 2]; steps up to 2^24 are exact
        done, usage = runtime.gather_host(own)[0].tolist()  # the first worker's
        if done < self.grace or usage >= self.halt:
            return
        self.last = int(done), usage
        rule = "or set quantize.usage_halt=0 to go on from the checkpoint"
        raise CollapseError(f"quantize.usage_halt={self.halt:g}: {self._finding()}; {self._remedy()}, {rule}")

    def _finding(self) -> str:
        assert self.last is not None
        done, usage = self.last
        return f"{usage:.1%} of {self.codes:,} codes are in use by {IMAGES} held-out images after {done:,} steps"

    def _remedy(self) -> str:
        if not self.restarts:
            return "start again with dead codes restarted (quantize.codebook.restart.every=100)"
        return f"start again with restarts more often than every {self.restarts} steps or at a higher threshold"
