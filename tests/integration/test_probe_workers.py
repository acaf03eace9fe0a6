"""The probe in two worker processes is the probe in one, also where they take over from each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import probing
from tests.support.workers import curve, spawn

pytestmark = pytest.mark.slow


def files(folder: Path, place: str) -> tuple[dict[str, float], dict[str, list[float]]]:
    figures = json.loads((folder / place / "figures.json").read_text())
    curves = curve(folder / place)
    return figures, {name: curves[name] for name in ("loss", "pixel_loss", "skipped")}


def test_two_workers_do_what_one_does(tmp_path: Path) -> None:
    probing.tables(tmp_path)
    probing.train_alone(tmp_path, "one")
    spawn(probing.train_worker, 2, tmp_path, "two", None)
    # Killed in two processes before step 5, continued from step 4 in one.
    spawn(probing.train_worker, 2, tmp_path, "moved", 5)
    probing.train_alone(tmp_path, "moved")
    expected = files(tmp_path, "one")
    assert set(expected[0]) == {"block_00", "block_01", "pixels"}
    assert len(expected[1]["loss"]) == probing.STEPS
    for place in ("two", "moved"):
        figures, curves = files(tmp_path, place)
        assert figures == pytest.approx(expected[0])
        for name, values in curves.items():
            assert values == pytest.approx(expected[1][name], rel=1e-4, abs=1e-6), (place, name)
