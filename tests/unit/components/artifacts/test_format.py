"""Figures of artifacts as text."""

from __future__ import annotations

import pytest

from components.artifacts import format


@pytest.mark.parametrize(
    ("value", "text"), [(11120.0, "11,120"), (6912000.0, "6,912,000"), (0.123456, "0.12346"), (123456.7, "123,457")]
)
def test_figures_are_whole_or_short(value: float, text: str) -> None:
    assert format.figure(value) == text
