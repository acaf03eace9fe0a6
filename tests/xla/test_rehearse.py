"""A rehearsal on XLA's devices: both stages from images."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from components.rehearsal.findings import PASS
from components.rehearsal.run import rehearse
from components.tracking.progress import LineProgress
from pipelines import presets
from pipelines.orchestration import launch

pytestmark = pytest.mark.xla

# Fewer kinds of steps are fewer programs to compile.
SETTINGS = [
    "run.device=xla", "run.threads=1", "run.data_workers=2", "quantize.discriminator.r1_every=1",
    "quantize.codebook.restart.every=0",
]  # fmt: skip


def test_both_stages_compile_and_read_nothing_in_steady_state(tmp_path: Path) -> None:
    config = presets.load("imagenet256_probe", SETTINGS)
    names = launch.plan(config, "prior")
    result = rehearse(config, names, 4, str(tmp_path), lambda title: LineProgress(title, lambda text: None))
    assert [dataclasses.astuple(finding) for finding in result.findings if finding.status != PASS] == []
    assert set(result.trainings) == {"quantize", "prior"}
    for figures in result.trainings.values():
        assert figures.device.startswith("xla")
        assert figures.compiled == {}
        assert figures.reads["step"] == 0 < figures.reads["log"]
