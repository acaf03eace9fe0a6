"""A sweep is held against its preset before anything runs; one error names all bad points."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import presets
from pipelines.cli import main as cli
from pipelines.sweeps import spec
from pipelines.sweeps.check import check_sweep
from pipelines.sweeps.spec import Sweep
from vim_core.errors import ConfigError

AXES = ["max conditional_accuracy", "min fd_classifier"]


@pytest.mark.parametrize("name", spec.names())
def test_sweeps_of_the_package_suit_their_presets(name: str) -> None:
    sweep = spec.load(name)
    check_sweep(sweep, presets.load(sweep.preset, []))


@pytest.mark.parametrize(
    ("sweep", "overrides", "message"),
    [
        (
            Sweep("s", grid={"sample.guidance": [1.0, 1.5, 2.0], "sample.top_k": [0, 8]}),
            ["prior.label_dropout=0"],
            r"^sweep s: 4 of 6 points do not suit the preset smoke, and nothing was started: sample\.guidance=1\.5: "
            r"needs .*\(guidance 1\.5, top_k 0 \| guidance 1\.5, top_k 8\); sample\.guidance=2\.0",
        ),
        (
            Sweep("s", grid={"sample.guidance": [1.0, 2.0]}, settings={"sample.guidance_schedule": "cosine"}),
            [],
            r"1 of 2 points .*sample\.guidance_schedule='cosine': needs sample\.guidance other than 1 \(guidance 1\)",
        ),
        (
            Sweep("s", grid={"sample.temperature": [0.0, 1.0], "acceptance": [1.0, 0.5]}, axes=AXES),
            ["components=[ingest,classify,statistics,quantize,tokenize,reconstruct,prior,sample,score]"],
            r"4 of 4 points .*temperature=0\.0: must be positive.*needs select, which the preset does not have",
        ),
        (
            Sweep("s", grid={"block": [0, 1, 7]}, axes=["max probe.accuracy", "min block"]),
            [],
            r"block=7: the prior has 2",
        ),
        (Sweep("s", points=[{"sample.prefix": 0.01}]), [], r"1 of 1 points .*gives 0 of 4 rows"),
        (
            Sweep("s", grid={"sample.top_k": [0, 8]}),
            ["components=[ingest,quantize,tokenize,reconstruct,prior,sample,score]"],
            r"^axes=\[\]: the preset has no statistics",
        ),
    ],
)
def test_all_bad_points_in_one_error(sweep: Sweep, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_sweep(sweep, presets.load("smoke", overrides))


def test_nothing_is_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "root"
    words = [f"run.root={root}", "prior.label_dropout=0"]
    for command in (["run", "smoke"], ["schedule", "smoke", "--cron", "0 3 * * *"]):
        assert cli.main(["sweep", *command, *words]) == 2
        assert "2 of 4 points do not suit the preset smoke" in capsys.readouterr().err
    assert not root.exists()
