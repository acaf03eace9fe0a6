"""Gates on trainings: finite figures, skipped updates, use of the codebook."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.artifacts.gates import training
from components.contract.api import Artifact
from tests.support.synthetic import artifact
from vim_core.config import GatesConfig, PipelineConfig
from vim_core.errors import ConfigError


def config(**bounds: float) -> PipelineConfig:
    return PipelineConfig(gates=GatesConfig(**bounds))


def trained(root: Path, *rows: dict[str, Any], skipped: list[int] | None = None, **fields: Any) -> Artifact:
    """A training's artifact with these logged figures, ten steps apart, and skipped updates."""
    lines = [json.dumps({"step": 10 * i + 9, "t": 0, "m": row}) + "\n" for i, row in enumerate(rows)]
    files = {"curves.jsonl": lambda uri: Path(uri).write_text("".join(lines))}
    if skipped is not None:
        faults = "".join(
            json.dumps({"step": step, "t": 0, "nonfinite": ["loss"], "samples": []}) + "\n" for step in skipped
        )
        files["nonfinite.jsonl"] = lambda uri: Path(uri).write_text(faults)
    return artifact(root, "quantize", files, **{"config": {"steps": 200}, **fields})


def test_finite_figures_pass(tmp_path: Path) -> None:
    made = trained(tmp_path, {"loss": float("nan")}, {"loss": 0.5}, metrics={"test_psnr_db": 20.0})
    assert training.check_finite(config(), made, {}).passed, "only the end of the curves counts"


@pytest.mark.parametrize(
    ("row", "metrics", "named"),
    [
        ({"loss": float("nan")}, {}, "loss at step 9"),
        ({"loss": 1.0, "l2": float("inf")}, {}, "l2 at step 9"),
        ({"loss": 1.0}, {"test_psnr_db": float("nan")}, "test_psnr_db"),
    ],
)
def test_what_is_not_finite_fails_by_name(tmp_path: Path, row: Any, metrics: Any, named: str) -> None:
    verdict = training.check_finite(config(), trained(tmp_path, row, metrics=metrics), {})
    assert not verdict.passed
    assert named in verdict.text


@pytest.mark.parametrize(("skipped", "passed"), [([3], True), ([3, 3, 4], True), ([3, 4, 5], False)])
def test_few_updates_may_be_skipped(tmp_path: Path, skipped: list[int], passed: bool) -> None:
    """One in a hundred of two hundred steps; a step that is listed twice counts once."""
    made = trained(tmp_path, {"loss": 0.5}, skipped=skipped)
    verdict = training.check_finite(config(nonfinite_share=0.01), made, {})
    assert verdict.passed is passed
    assert f"{len(set(skipped))} of 200" in verdict.text
    if not passed:
        accepted = float(verdict.remedy.rpartition("gates.nonfinite_share=")[2])
        assert training.check_finite(config(nonfinite_share=accepted), made, {}).passed


def test_a_codebook_in_use_passes_and_a_collapsed_one_fails(tmp_path: Path) -> None:
    made = trained(tmp_path, {"codebook_usage": 0.9}, {"codebook_usage": 0.2, "batch_usage": 0.01}, {"loss": 1.0})
    assert training.check_codebook_usage(config(codebook_usage=0.2), made, {}).passed
    refused = training.check_codebook_usage(config(codebook_usage=0.3), made, {})
    assert not refused.passed
    assert "codebook_usage 0.2 at step 19, at least 0.3" in refused.text
    accepted = float(refused.remedy.rpartition("gates.codebook_usage=")[2])
    assert training.check_codebook_usage(config(codebook_usage=accepted), made, {}).passed


def test_the_usage_of_a_batch_is_taken_where_no_window_was_logged(tmp_path: Path) -> None:
    made = trained(tmp_path, {"batch_usage": 0.5})
    assert training.check_codebook_usage(config(codebook_usage=0.4), made, {}).passed
    assert not training.check_codebook_usage(config(codebook_usage=0.6), made, {}).passed


def test_curves_without_usage_fail(tmp_path: Path) -> None:
    assert not training.check_codebook_usage(config(codebook_usage=0.0), trained(tmp_path, {"loss": 1.0}), {}).passed
    bare = artifact(tmp_path / "bare", "quantize", {})
    assert not training.check_codebook_usage(config(), bare, {}).passed


def test_only_the_end_of_long_curves_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"codebook_usage": i / 100, "loss": 1.0} for i in range(50)]
    made = trained(tmp_path, *rows)
    monkeypatch.setattr(training, "TAIL_BYTES", 200)
    read = [json.loads(line) for line in Path(made.uri("curves.jsonl")).read_bytes()[-200:].splitlines()[1:]]
    assert training._last_rows(made) == read
    assert training.check_codebook_usage(config(codebook_usage=0.49), made, {}).passed
    assert not training.check_codebook_usage(config(codebook_usage=0.5), made, {}).passed


def test_skipped_updates_of_unknown_steps_fail(tmp_path: Path) -> None:
    made = trained(tmp_path, {"loss": 0.5}, skipped=[3])
    blank = Artifact(made.folder, replace(made.manifest, config={}))
    assert not training.check_finite(config(nonfinite_share=1.0), blank, {}).passed


def test_bounds_are_shares() -> None:
    with pytest.raises(ConfigError, match=r"gates.codebook_usage=1\.5"):
        GatesConfig(codebook_usage=1.5)
    with pytest.raises(ConfigError, match=r"gates\.nonfinite_share=-1"):
        GatesConfig(nonfinite_share=-1)
