"""`results.json`: the required keys, and nothing where a component is absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.report import component
from tests.support.synthetic import artifact, everything, with_fields

SCORES = {
    "psnr_db": 23.0,
    "ssim": 0.9,
    "codebook_usage": 0.95,
    "perplexity": 200.0,
    "conditional_accuracy": 0.97,
    "samples": 9.0,
    "fd_classifier": 3.0,
    "fd_classifier_real_vs_real": 2.0,
}


@pytest.fixture
def artifacts(tmp_path: Path) -> dict[str, Any]:
    made = everything(tmp_path)
    made["score"] = artifact(tmp_path, "score", {}, metrics=SCORES, protocols={"psnr_db": {"split": "test"}})
    made["probe"] = artifact(
        tmp_path,
        "probe",
        {},
        metrics={"best_block": 1.0, "top1": 0.9, "pixel_baseline_top1": 0.8, "block_00": 0.7, "block_01": 0.9},
        properties={"accuracy_per_block": [0.7, 0.9]},
    )
    return made


def test_all_required_figures(artifacts: dict[str, Any]) -> None:
    record = component.collect("smoke", artifacts)
    assert record["preset"] == "smoke"
    assert record["quantizer"] == {n: SCORES[n] for n in ("psnr_db", "ssim", "codebook_usage", "perplexity")}
    assert record["prior"] == {"nll_bits_per_token": 2.0, "unigram_bits_per_token": 3.0}
    assert record["samples"] == {
        "count": 9,
        "conditional_accuracy": 0.97,
        "fd_classifier": 3.0,
        "fd_classifier_real_vs_real": 2.0,
    }
    assert record["classifier"] == {"test_accuracy": 0.9}
    assert record["probe"] == {
        "best_block": 1,
        "top1": 0.9,
        "pixel_baseline_top1": 0.8,
        "accuracy_per_block": [0.7, 0.9],
    }
    assert record["protocols"] == {"quantizer.psnr_db": {"split": "test"}}
    assert record["seconds"]["score"] == 2.5
    assert record["artifacts"]["score"]["digest"] == artifacts["score"].digest
    assert json.loads(json.dumps(record)) == record


def test_absent_components_leave_nothing(artifacts: dict[str, Any]) -> None:
    few = {name: artifacts[name] for name in ("ingest", "quantize", "score")}
    without = {n: v for n, v in SCORES.items() if n in ("psnr_db", "codebook_usage")}
    few["score"] = with_fields(few["score"], metrics=without)
    record = component.collect("smoke", few)
    assert record["quantizer"] == without
    assert not {"prior", "samples", "classifier", "probe"} & set(record)
    assert set(record["seconds"]) == set(record["artifacts"]) == set(few)


def test_a_stamp_replaces_what_belongs_to_a_run(artifacts: dict[str, Any]) -> None:
    record = component.collect("smoke", artifacts)
    done = {"preset": "mine", "seconds": {"ingest": 0.1}, "reused": {"ingest": True}, "mlflow": {"run_id": "r"}}
    stamped = component.stamp(record, done)
    assert {name: stamped[name] for name in done} == done
    assert {n: v for n, v in stamped.items() if n not in done} == {n: v for n, v in record.items() if n not in done}
    assert component.stamp(record, {})["preset"] == "smoke"
