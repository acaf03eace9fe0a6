"""`vimctl rehearse`: every preset small on this CPU in one process, and each structure on two workers."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from components.contract import registry, settings
from components.rehearsal.findings import PASS
from components.rehearsal.run import Rehearsal, rehearse
from components.tracking.progress import LineProgress
from pipelines import presets
from pipelines.cli.main import main
from pipelines.orchestration import launch

pytestmark = pytest.mark.slow
PRESETS = settings.presets(presets.FOLDER)
STEPS = 4
CPU = ("run.device=cpu", "run.threads=1")


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Rehearsal]:
    """Rehearses presets in one root, so that those with a part in common make it once."""
    root = str(tmp_path_factory.mktemp("rehearsals"))

    def run(preset: str, target: str | None = None, *overrides: str) -> Rehearsal:
        config = presets.load(preset, [*CPU, *overrides])
        names = launch.plan(config, target) if target else registry.in_flow_order(config.components)
        return rehearse(config, names, STEPS, root, lambda title: LineProgress(title, lambda text: None))

    return run


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_passes_its_rehearsal(rehearsed: Callable[..., Rehearsal], preset: str) -> None:
    began = time.monotonic()
    result = rehearsed(preset)
    bad = [dataclasses.astuple(finding) for finding in result.findings if finding.status != PASS]
    assert bad == []
    assert time.monotonic() - began < 180
    for figures in result.trainings.values():
        assert sum(figures.parts.values()) == pytest.approx(figures.step_seconds)
        assert {"data", "log", "optimizer"} <= figures.parts.keys()
        assert 0 < figures.share < 1.2
        assert figures.hours > 0
        assert figures.peak_bytes > 0
        assert figures.read_per_used is None or figures.read_per_used > 0.1


def test_two_workers_send_gradients_and_one_is_killed(rehearsed: Callable[..., Rehearsal]) -> None:
    """Both stages and the probe, under Ray Train with gloo; another seed, so that none of one worker is taken over."""
    result = rehearsed(
        "imagenet256_probe", "probe", "run.workers=2", "run.data_workers=0", "probe.pixels=0", "quantize.seed=1"
    )
    bad = [dataclasses.astuple(finding) for finding in result.findings if finding.status != PASS]
    assert bad == []
    for name, figures in result.trainings.items():
        assert figures.resume["killed"], name
        assert len(figures.memory) == 2
        assert figures.collectives > 0
        assert figures.collective_bytes > 0
    assert result.trainings["prior"].collective_bytes >= result.trainings["prior"].gradient_bytes


def test_the_command_prints_figures_keeps_what_failed_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    words = ["rehearse", "smoke", "classify", *CPU, f"run.root={tmp_path}", "run.tracking_uri=off"]
    assert main([*words, "--steps", "4", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "hours at full size" in printed
    record = json.loads(file.read_text())
    assert record["status"] == PASS
    assert record["trainings"]["classify"]["resume"]["equal"]
    assert not Path(record["root"]).exists()
    # With one checkpoint kept there is none to continue from: a fault that the training itself does not show.
    assert main([*words, "--steps", "4", "--json", str(file), "classify.keep=1"]) == 1
    printed = capsys.readouterr().out
    assert "FAIL  classify resume: " in printed
    kept = Path(json.loads(file.read_text())["root"])
    assert f"kept, because it failed: {kept}" in printed
    shutil.rmtree(kept)
