"""Sections of inputs that a preset may lack: accepted samples, nearest training images, kinds of probing heads."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.contract.api import Artifact
from components.report import component, metrics, sections
from components.report import component as report
from tests.support import reported
from tests.support.html import checked, opened
from tests.support.synthetic import context_of, pictures, with_fields
from vim_core.config import ReportConfig


def test_a_column_per_rate_and_a_row_per_class(tmp_path: Path) -> None:
    found = sections.accepted_samples(reported.selected(tmp_path), 2)
    assert found is not None
    assert found.rates == ("1.0", "0.25", "0.05")
    assert [name for name, _ in found.rows] == ["ant", "bee"]
    strip = found.rows[1][1][2]
    assert strip is not None
    assert strip.alt == "Class bee at acceptance 0.05"
    assert (opened(strip)[..., :3] == pictures(3, 2)[1]).all()


def test_neighbours_have_a_verdict_both_distributions_and_a_chart() -> None:
    found = sections.neighbours(reported.NEIGHBOURS, None)
    assert found.verdict.startswith("2 of 9 samples (22.2 %) lie nearer to a training image than 99 of 100")
    assert found.verdict.endswith("where copies would be, lie none.")
    assert dict(found.rows) == {
        "count": ("9", "12"), "least": ("0.5", "0.75"), "mean": ("2.6", "2.4"), "1 % lie below": ("0.5", "0.75"),
        "50 % lie below": ("2.5", "2.25"), "95 % lie below": ("3.5", "3.25")}  # fmt: skip
    names = [attributes.get("class") for _, attributes in checked(found.chart).tags]
    assert (names.count("dot"), names.count("joined")) == (6, 2)
    assert sections.neighbours({}, None).rows == ()


def test_figures_of_accepted_samples_stand_by_rate(whole: dict[str, Artifact]) -> None:
    found = sections.metrics_by_rate(component.collect("p", whole))
    assert found is not None
    assert found.rates == ("0.25", "0.05")
    assert found.rows == (("Fréchet distance (classifier features)", (("1.500", ""), ("1.250", ""))),)
    assert sections.metrics_by_rate({"samples": {"fd_classifier": 1.0}}) is None


def test_a_probe_of_two_heads_has_two_lines() -> None:
    known = {"accuracy_per_block": [0.5, 0.75], "ridge_accuracy_per_block": [0.625, 0.25], "pixel_baseline_top1": 0.875}
    found = sections.probe({"probe": known, "tokenizer": {"perceptual": False}})
    assert found is not None
    names = [attributes.get("class") for _, attributes in checked(found.chart).tags]
    assert [name for name in names if name and name.startswith("line")] == ["line second", "line"]
    assert (found.blocks, found.best) == ((("50.0 %", "62.5 %"), ("75.0 %", "25.0 %")), 1)
    assert "without the perceptual loss" in found.tokenizer
    labelled = sections.probe({"probe": known, "tokenizer": {"perceptual": True}})
    assert labelled is not None
    assert "stands apart" in labelled.tokenizer
    assert sections.probe({}) is None


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """Everything that the page can show, with made-up figures."""
    return reported.whole(tmp_path_factory.mktemp("whole"))


def headings(tmp_path: Path, inputs: dict[str, Artifact]) -> set[str | None]:
    ctx = context_of(tmp_path, "report")
    report.run(ReportConfig(samples_per_class=2, reconstructions=2), inputs, ctx)
    return {one.get("id") for one in checked(Path(ctx.path("report.html")).read_text()).of("h2")}


@pytest.mark.parametrize(
    ("absent", "section"), [("", ""), ("select,score", "accepted"), ("tradeoff", "tradeoff"), ("score", "neighbours")]
)
def test_the_page_renders_whatever_is_missing(
    tmp_path: Path, whole: dict[str, Artifact], absent: str, section: str
) -> None:
    inputs = {name: made for name, made in whole.items() if name not in absent.split(",")}
    found = headings(tmp_path, inputs)
    gone = {"accepted", "tradeoff", "neighbours"} - found
    assert (section in gone) if section else not gone
    if not absent:  # a preset with little makes a small page
        assert headings(tmp_path / "small", {"ingest": whole["ingest"]}) == {"lineage"}


def test_intervals_and_new_figures_reach_the_record(whole: dict[str, Artifact]) -> None:
    record = component.collect("p", whole)
    assert record["samples"]["kd_classifier"] == 0.02
    assert [record["samples"][f"conditional_accuracy{end}"] for end in metrics.BOUNDS] == [0.85, 0.94]
    assert "unexplained" not in record["samples"]
    named = {figure.key: figure for figure in metrics.present(record)}
    assert named["samples.kd_classifier"].label == "Kernel distance (classifier features)"
    assert metrics.formatted(record, named["samples.conditional_accuracy"]) == ("90.0 %", "85.0 to 94.0 %")
    assert record["tradeoff"]["judge"] == "judge"
    assert record["neighbours"] == reported.NEIGHBOURS
    assert record["compute"]["score"]["seconds"] == 2.5


def test_circumstances_of_the_run_are_kept(whole: dict[str, Artifact]) -> None:
    quantize = with_fields(
        whole["quantize"], config={"steps": 7}, properties={"grid": [2, 2], "perceptual": False},
        numeric={"device": "cpu", "dtype": "fp32", "product_gflops": 1.0},
    )  # fmt: skip
    record = component.collect("p", {**whole, "quantize": quantize})
    assert record["settings"]["quantize"] == {"steps": 7}
    assert record["compute"]["quantize"] == {"seconds": 2.5, "device": "cpu", "dtype": "fp32"}
    assert record["tokenizer"] == {"grid": [2, 2], "perceptual": False}
    assert record["data"]["splits"] == {"train": 5, "test": 12}
