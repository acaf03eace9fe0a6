"""Progress for people: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from components.contract.api import Progress
from vim_core.text import clock

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress

LINE_EVERY_S = 15.0
PACE_WINDOW_S = 60.0
TITLES = {"images_per_s": "images/s"}


class ClosingProgress(Progress, Protocol):
    """A progress display that is closed when its component has ended."""

    def close(self) -> None:
        """Stop drawing; further calls draw nothing."""


class Pace:
    """Speed over the last minute. The first observation is the baseline, so resumed work does not count as fast."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def observe(self, done: int) -> None:
        """Record that `done` units are finished now; a smaller value resets the pace."""
        now = self._clock()
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[1][0] >= PACE_WINDOW_S:
            self._seen.popleft()

    def per_second(self) -> float | None:
        """Units per second, or None while too little has been seen."""
        if len(self._seen) < 2:
            return None
        (start, before), (end, after) = self._seen[0], self._seen[-1]
        return (after - before) / (end - start) if end > start and after > before else None

    def left(self, total: int) -> float | None:
        """Seconds until `total` at the present pace, or None while unknown."""
        speed = self.per_second()
        return max(0, total - self._seen[-1][1]) / speed if speed else None


def status_line(figures: dict[str, float], pace: Pace, unit: str, total: int) -> str:
    """Figures, speed and ETA in one line, such as `loss 2.531 · images/s 512 · ETA 2:05`."""
    parts = [f"{TITLES.get(name, name)} {value:.4g}" for name, value in figures.items()]
    speed, left = pace.per_second(), pace.left(total)
    if speed and "images_per_s" not in figures:
        parts.append(f"{unit}s/s {speed:.3g}")
    if left:
        parts.append(f"ETA {clock(left)}")
    return " · ".join(parts)


class LineProgress:
    """Plain lines for logs: one at most every 15 seconds, and one when a bar fills."""

    def __init__(self, name: str, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._write, self._clock = name, write, clock
        self._closed = False
        self.start(0, "step")

    def start(self, total: int, unit: str) -> None:
        """Begin counting up to `total`."""
        self._total, self._unit, self._last = total, unit, self._clock()
        self._pace = Pace(clock=self._clock)

    def status(self, text: str) -> None:
        """Write one line."""
        self.note(text)

    def advance(self, done: int, **figures: float) -> None:
        """Write a line when the last one is old enough or the work is complete."""
        self._pace.observe(done)
        now = self._clock()
        if self._closed or (now - self._last < LINE_EVERY_S and done != self._total):
            return
        self._last = now
        rest = status_line(figures, self._pace, self._unit, self._total)
        self.note(f"{done:,} of {self._total:,} {self._unit}s" + (f" · {rest}" if rest else ""))

    def note(self, text: str) -> None:
        """Write one line."""
        self._write(f"{self._name.rstrip()}: {text}")

    def close(self) -> None:
        """Write nothing more about the bar."""
        self._closed = True


class TerminalProgress:
    """A rich bar with figures, speed and ETA; it appears with `start` and vanishes with `close`."""

    def __init__(self, name: str, console: Console) -> None:
        self._name, self._console = name, console
        self._bar: RichProgress | None = None
        self._total, self._unit = 0, "step"
        self._pace = Pace()

    def start(self, total: int, unit: str) -> None:
        """Draw a bar of `total` units; an earlier one is replaced."""
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self.close()
        self._total, self._unit, self._pace = total, unit, Pace()
        columns = [
            TextColumn("[bold]{task.description:<11}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}s"), TextColumn("{task.fields[figures]}"),
        ]  # fmt: skip
        self._bar = RichProgress(*columns, console=self._console, transient=True, refresh_per_second=4)
        self._bar.add_task(self._name, total=total, unit=unit, figures="")
        self._bar.start()

    def status(self, text: str) -> None:
        """Show the text beside the bar until the first step."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], figures=text)

    def advance(self, done: int, **figures: float) -> None:
        """Move the bar to `done` and show the figures."""
        self._pace.observe(done)
        if self._bar is not None:
            text = status_line(figures, self._pace, self._unit, self._total)
            self._bar.update(self._bar.task_ids[0], completed=done, figures=text)

    def note(self, text: str) -> None:
        """Print one line above the bar."""
        from rich.markup import escape

        self._console.print(f"[bold]{self._name.rstrip()}[/bold]: {escape(text)}", highlight=False)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = None


def progress_on(console: Console) -> Callable[[str], ClosingProgress]:
    """Bars where the console is a terminal, plain lines elsewhere; returns one progress per component name."""
    if console.is_terminal:
        return lambda name: TerminalProgress(name, console)
    return lambda name: LineProgress(
        name, lambda text: console.print(text, soft_wrap=True, highlight=False, markup=False)
    )
