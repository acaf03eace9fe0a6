"""Text for people: the nearest name, dotted names, durations."""

from __future__ import annotations

import pytest

from vim_core import text
from vim_core.errors import ConfigError


def test_the_nearest_name_by_the_whole_or_its_last_part() -> None:
    known = ["prior.dropout", "sample.temperature", "quantize.codebook.restart.every"]
    assert text.nearest("prior.dropot", known) == "prior.dropout"
    assert text.nearest("temperature", known, cutoff=0.9) == "sample.temperature"
    assert text.nearest("zzz", known) is None
    assert text.hint("prior.dropot", known) == "did you mean prior.dropout?"
    assert text.hint("zzz", ["a", "b"]) == "known are a, b"


def test_nested_names_are_dotted() -> None:
    assert text.flatten({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": {}}) == {"a.b": 1, "a.c.d": [1, 2], "e": {}}


@pytest.mark.parametrize(
    ("seconds", "words", "clock"),
    [(0, "0.0 s", "0:00"), (59.6, "59.6 s", "1:00"), (125, "2 min 5 s", "2:05"), (12_030, "3 h 20 min", "3:20:30")],
)
def test_durations(seconds: float, words: str, clock: str) -> None:
    assert text.duration(seconds) == words
    assert text.clock(seconds) == clock


def test_durations_at_their_limits() -> None:
    """Sixty seconds are a minute, sixty minutes an hour, also where only rounding makes them so."""
    limits = {60: "1 min 0 s", 3599.4: "59 min 59 s", 3599.6: "1 h 0 min", 3600: "1 h 0 min", float("inf"): "–"}
    assert {seconds: text.duration(seconds) for seconds in limits} == limits
    assert [text.clock(seconds) for seconds in (60, 3599.4, 3600)] == ["1:00", "59:59", "1:00:00"]


def test_durations_are_parsed() -> None:
    given = ("0", "90s", "30m", "12h", "7d", "2w")
    assert [text.parse_duration(each, "--older-than") for each in given] == [0, 90, 1800, 43200, 604800, 1209600]
    for wrong in ("", "7", "d", "-1d", "1.5h", "7 d", "x"):
        with pytest.raises(ConfigError, match=f"--older-than={wrong}: give a number"):
            text.parse_duration(wrong, "--older-than")
