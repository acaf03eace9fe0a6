"""Proposed settings are valid, fit the images and the time, and are written with a reason each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from components.artifacts.counts import shortfalls
from components.contract import settings
from components.proposal.choices import FEWEST, held_out_fraction, propose
from components.proposal.document import document
from components.proposal.survey import Survey, survey
from components.proposal.timing import MeasuredSteps
from tests.unit.components.proposal.conftest import SETS
from vim_core.config import PipelineConfig


def at(seconds: float) -> Callable[[PipelineConfig, Sequence[str]], dict[str, float]]:
    """A timer of a machine on which a step at 32 pixels takes so long, and at others by their area."""

    def timer(config: PipelineConfig, names: Sequence[str]) -> dict[str, float]:
        work = (config.quantize.image_size / 32) ** 2 * config.quantize.encoder.dim**2 / 128**2
        return dict.fromkeys(names, seconds * work)

    return timer


@pytest.fixture
def surveyed(request: pytest.FixtureRequest, pictures: Callable[[str], Path], tmp_path: Path) -> Survey:
    return survey(str(pictures(request.param)), str(tmp_path))


@pytest.mark.parametrize("surveyed", SETS, indirect=True)
@pytest.mark.parametrize(("minutes", "seconds"), [(1.0, 0.1), (10.0, 0.05), (600.0, 0.001)])
def test_a_proposal_fits_its_images_and_loads_as_it_is_meant(
    surveyed: Survey, minutes: float, seconds: float, tmp_path: Path
) -> None:
    proposal = propose(surveyed, at(seconds), minutes, "mine")
    counts = surveyed.counts(held_out_fraction(surveyed))
    assert shortfalls(proposal.config, counts) == []
    assert min(counts.class_counts["test"], default=1) >= 1
    text = document(proposal, surveyed, "mine.yaml", minutes)
    (tmp_path / "mine.yaml").write_text(text)
    loaded = settings.load(str(tmp_path / "mine.yaml"))
    loaded.run.root = proposal.config.run.root
    assert loaded == proposal.config
    lines = text.splitlines()
    values = [number for number, line in enumerate(lines) if re.match(r" *\w+: .", line) and not line.startswith("#")]
    assert all(lines[number - 1].lstrip().startswith("# ") for number in values)
    assert max(map(len, lines)) <= 140
    codebook = proposal.config.quantize.codebook
    assert codebook.restart.every > 0 < codebook.entropy.weight
    assert proposal.config.score.usage_batch == min(256, sum(counts.splits.values()))


@pytest.mark.parametrize("surveyed", ["three"], indirect=True)
def test_more_time_gives_larger_images_and_more_steps_and_the_estimate_keeps_to_it(surveyed: Survey) -> None:
    short, medium, long = (propose(surveyed, at(0.02), minutes, "m") for minutes in (0.5, 6, 60))
    assert [each.config.quantize.image_size for each in (short, medium, long)] == [32, 64, 64]
    assert short.config.quantize.steps == FEWEST["quantize"] < medium.config.quantize.steps < long.config.quantize.steps
    assert short.seconds > 30
    assert medium.seconds <= 360
    assert long.config.quantize.steps * long.config.quantize.batch <= 300 * 153 + 16


@pytest.mark.parametrize(
    ("surveyed", "components"),
    [
        ("three", {"classify", "selector", "select", "statistics", "probe"}),
        ("two", {"classify", "selector", "select", "statistics"}),
        ("one", set()),
        ("unlabelled", set()),
    ],
    indirect=["surveyed"],
)
def test_components_follow_the_classes(surveyed: Survey, components: set[str]) -> None:
    config = propose(surveyed, at(0.02), 5, "m").config
    assert set(config.components) - components == {
        "ingest", "quantize", "tokenize", "reconstruct", "prior", "sample", "score", "report",
    }  # fmt: skip
    assert config.prior.conditional == bool(components)
    assert config.ingest.labelled == (surveyed.classes != ())


@pytest.mark.slow
@pytest.mark.parametrize("surveyed", ["two"], indirect=True)
def test_steps_are_measured_on_the_images(surveyed: Survey, tmp_path: Path) -> None:
    config = propose(surveyed, at(10.0), 1, "m").config
    times = MeasuredSteps(surveyed.pixels[:4], 2, str(tmp_path))(config, ["quantize", "classify", "prior"])
    assert set(times) == {"quantize", "classify", "prior"}
    assert all(0 < seconds < 10 for seconds in times.values())
