"""Settings explained and printed with comments."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from components.contract import explain, settings
from pipelines import presets
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError


@pytest.fixture
def digits() -> PipelineConfig:
    return presets.load("digits", ["prior.seed=4"])


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (
            "prior.seed",
            ["prior.seed = 4 (digits; default 0)", "made again are prior, sample, select", "presets 0: digits, smoke"],
        ),
        ("quantize.codebook.restart.until", ["Usage is a moving average with `decay`; restarts end after the share"]),
        ("run.workers", ["is how `workers` share", "int, must be positive", "nothing is made again", "pool.py"]),
        ("prior.optim", ["Adam with decoupled weight decay", "prior.optim.warmup = 50   (default 0)"]),
    ],
)  # fmt: skip
def test_a_setting_says_text_default_effect_readers_and_values(
    digits: PipelineConfig, key: str, said: list[str]
) -> None:
    others = {name: presets.load(name, []) for name in ("digits", "smoke")}
    text = " ".join(" ".join(explain.explain(key, digits, others)).split())
    assert [each for each in said if " ".join(each.split()) not in text] == []


def test_every_setting_has_a_text_of_its_own(digits: PipelineConfig) -> None:
    leaves = [name for name, kind in settings.names().items() if not dataclasses.is_dataclass(kind)]
    silent = [name for name in leaves if f"`{name.rpartition('.')[2]}" not in "".join(explain.about(name))]
    assert silent == []


def test_an_unknown_setting_names_the_nearest(digits: PipelineConfig) -> None:
    with pytest.raises(ConfigError, match=r"did you mean prior\.dropout\?"):
        list(explain.explain("prior.dropot", digits, {}))


def test_comments_and_differences_load_as_the_same_settings(digits: PipelineConfig, tmp_path: Path) -> None:
    whole = explain.commented(digits)
    assert settings.from_yaml(whole, "text") == digits
    assert "\n  # Adam with decoupled weight decay" in whole
    assert "\n  seed: 4  # default 0\n" in whole
    changed = explain.commented(digits, only_changed=True)
    assert "  seed: 4  # default 0\n" in changed
    assert "commitment" not in changed
    (tmp_path / "digits.yaml").write_text(changed)
    assert presets.load(str(tmp_path / "digits.yaml"), []) == digits
