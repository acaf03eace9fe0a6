"""The rules of a rehearsal, each on figures that pass and on figures that do not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from components.rehearsal.figures import TrainingFigures
from components.rehearsal.findings import FAIL, PASS, RULES, WARN, judge
from components.rehearsal.run import Rehearsal
from components.rehearsal.tracking import metrics
from vim_core.config import PipelineConfig, RunConfig
from vim_core.rehearsal.schedule import Schedule

CONFIG = PipelineConfig(run=RunConfig(rehearse=8))
AT = Schedule(8).checkpoint
GOOD = TrainingFigures(
    name="prior", steps=8, batch=32, device="cpu-fp32-t1-w1", step_seconds=0.1, parts={"forward": 0.06, "other": 0.04},
    images_per_s=320.0, tokens_per_s=5120.0, share=0.3, hours=12.0, compiled={}, reads={"log": 2.0}, collectives=1.0,
    collective_bytes=1e6, gradient_bytes=1e6, read_per_used=1.1, bytes_per_used=1e5, decoded_per_used=1.0,
    memory=[[400_000_000, 100_000_000]], before=[300_000_000], peak_bytes=100e6, planned_bytes=100e6,
    checkpoint={"bytes": 1e6, "seconds": 0.1, "waited": 0.0}, interval_seconds=100.0, writing_seconds=3.0,
    resume={"step": AT, "equal": True, "killed": False},
)  # fmt: skip


def statuses(**changed: Any) -> dict[str, str]:
    findings = judge(dataclasses.replace(GOOD, **changed), CONFIG)
    assert all(bool(finding.remedy) == (finding.status != PASS) for finding in findings)
    return {finding.rule: finding.status for finding in findings}


def test_good_figures_pass() -> None:
    passed = statuses()
    assert set(passed.values()) == {PASS}
    assert len(passed) == len(RULES) + 1  # the feed has two


@pytest.mark.parametrize(
    ("rule", "status", "changed"),
    [
        ("resume", FAIL, {"resume": {"step": AT, "equal": False, "killed": True}}),
        ("resume", FAIL, {"resume": {"step": 0, "equal": True, "killed": True}}),
        ("compiles", FAIL, {"compiled": {"9": 1}}),
        ("reads", FAIL, {"reads": {"log": 2.0, "optimizer": 0.25}}),
        ("reading", FAIL, {"read_per_used": 1.3}),
        ("decoding", FAIL, {"decoded_per_used": 1.2}),
        ("processes", FAIL, {"memory": [[400_000_000, 1_600_000_000]]}),
        ("processes", FAIL, {"memory": [[1_900_000_000]]}),
        ("processes", PASS, {"memory": [[1_900_000_000]], "before": [1_500_000_000]}),
        ("memory", WARN, {"peak_bytes": 125e6}),
        ("memory", FAIL, {"peak_bytes": 160e6}),
        ("collectives", FAIL, {"collective_bytes": 5e6}),
        ("checkpoint", WARN, {"writing_seconds": 101.0}),
    ],
)
def test_each_rule_sees_its_fault_alone(rule: str, status: str, changed: dict[str, Any]) -> None:
    assert statuses(**changed) == statuses() | {rule: status}


def test_codes_have_no_image_feed_and_a_device_may_hide_its_peak() -> None:
    none = {"read_per_used": None, "bytes_per_used": None, "decoded_per_used": None, "peak_bytes": 0.0}
    assert {"reading", "decoding", "memory"} & set(statuses(**none)) == set()


def test_a_rehearsal_is_as_bad_as_its_worst_finding_and_has_metrics() -> None:
    result = Rehearsal("p", "/root", True, trainings={"prior": GOOD}, findings=judge(GOOD, CONFIG))
    assert result.status == PASS
    assert metrics(result)["prior/parts/forward"] == 0.06
    result.findings += judge(dataclasses.replace(GOOD, writing_seconds=101.0), CONFIG)
    assert result.status == WARN
    result.findings += judge(dataclasses.replace(GOOD, compiled={"9": 2}), CONFIG)
    assert result.status == result.record()["status"] == FAIL
    assert metrics(result)["findings/FAIL"] == 1.0
