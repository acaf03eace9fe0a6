"""Bars and lines: pace, ETA, figures, and how seldom a log line is written."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from components.tracking.progress import LineProgress, Pace, TerminalProgress, progress_on, status_line


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_pace_counts_from_the_first_observation_so_resumed_work_is_not_fast() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.observe(800)
    assert pace.per_second() is None
    clock.now += 10
    pace.observe(820)
    assert pace.per_second() == pytest.approx(2.0)
    assert pace.left(1200) == pytest.approx(190.0)


def test_pace_forgets_what_is_older_than_its_window_and_starts_anew_when_work_goes_back() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(100):
        pace.observe(int(clock.now) * 10)
        clock.now += 1
    for step in range(100):
        pace.observe(2000 + step)
        clock.now += 1
    assert pace.per_second() == pytest.approx(1.0)
    pace.observe(5)
    assert pace.per_second() is None


def test_description_shows_figures_then_pace_and_time_left() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.observe(0)
    clock.now += 10
    pace.observe(50)
    text = status_line({"loss": 2.53125, "images_per_s": 512.3}, pace, "step", 100)
    assert text == "loss 2.531 · images/s 512.3 · ETA 0:10"
    assert status_line({}, pace, "image", 100) == "images/s 5 · ETA 0:10"


def test_lines_come_at_most_every_fifteen_seconds_and_at_the_end() -> None:
    clock, lines = Clock(), list[str]()
    bar = LineProgress("prior", lines.append, clock=clock)
    bar.start(100, "step")
    bar.status("starting 1 worker")
    assert lines.pop() == "prior: starting 1 worker"
    for done in range(1, 101):
        clock.now += 1
        bar.advance(done, loss=1.0)
    assert [line.split(" · ")[0] for line in lines] == [
        f"prior: {done} of 100 steps" for done in (*range(15, 100, 15), 100)
    ]
    assert lines[0] == "prior: 15 of 100 steps · loss 1 · steps/s 1 · ETA 1:25"
    bar.note("took over")
    assert lines[-1] == "prior: took over"


def test_a_log_gets_plain_unbroken_lines_and_a_terminal_a_bar() -> None:
    out = io.StringIO()
    console = Console(file=out, width=40)
    made = progress_on(console)("quantize")
    made.note("x" * 100)
    assert isinstance(made, LineProgress)
    assert out.getvalue() == "quantize: " + "x" * 100 + "\n"
    assert isinstance(progress_on(Console(file=io.StringIO(), force_terminal=True))("quantize"), TerminalProgress)


def test_the_terminal_bar_shows_figures_and_leaves_nothing_behind() -> None:
    out = io.StringIO()
    bar: Any = TerminalProgress("prior", Console(file=out, force_terminal=True, width=120))
    bar.start(10, "step")
    bar.advance(4, loss=2.5)
    bar._bar.refresh()
    assert "4/10" in out.getvalue()
    assert "loss 2.5" in out.getvalue()
    bar.close()
    bar.advance(5, loss=2.0)
    bar.note("still prints [as is]")
    assert "still prints [as is]" in out.getvalue()
    assert "5/10" not in out.getvalue()
