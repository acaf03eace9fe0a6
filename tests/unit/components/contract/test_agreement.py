"""Contradictions between components' settings are found before any of them runs."""

from __future__ import annotations

import pytest

from components.contract import agreement, settings
from pipelines.cli import main as cli
from tests.support.common import CONF
from vim_core.errors import ConfigError


@pytest.mark.parametrize("preset", settings.presets(CONF))
def test_presets_agree_with_themselves(preset: str) -> None:
    config = settings.load(preset, [], CONF)
    assert list(agreement.problems(config, config.components)) == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["prior.label_dropout=0"], ["sample.guidance=2.0: needs", "tradeoff.guidances=[1.0, 2.0]", "the probe needs"]),
        (
            ["prior.conditional=false", "sample.classes=[3]"],
            ["sample.guidance=2.0", "sample.classes=['3']", "select: the samples", "tradeoff: measures"],
        ),
        (["sample.prefix=0.01"], ["sample.prefix=0.01: gives 0 of 4 rows"]),
        (["sample.prefix=0.5"], []),
        (
            ["score.protocol=guided-diffusion", "statistics.features=20"],
            ["score.protocol=guided-diffusion: precision and recall look at all 60 samples"],
        ),
    ],
)  # fmt: skip
def test_each_contradiction_is_named(overrides: list[str], words: list[str]) -> None:
    config = settings.load("smoke", overrides, CONF)
    found = list(agreement.problems(config, config.components))
    assert len(found) == len(words)
    assert all(text.startswith(word) or word in text for text, word in zip(found, words, strict=True))
    assert list(agreement.problems(config, ["ingest", "quantize"])) == []
    if words:
        with pytest.raises(ConfigError):
            agreement.check(config, config.components)


@pytest.mark.parametrize("command", [["run"], ["submit", "--cluster", "local", "run.root=/tmp"]])
def test_a_run_is_refused_before_it_starts(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command, "--preset", "smoke", "prior.label_dropout=0"]) == 2
    assert "sample.guidance=2.0: needs a class-conditional prior" in capsys.readouterr().err
