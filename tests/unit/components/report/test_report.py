"""The page: complete, self-contained, escaped; keys of `results.json`; both stamped with one run's data."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.report import component as report
from components.report import page
from tests.support.html import checked
from tests.support.synthetic import artifact, context_of, curves, everything, with_fields
from vim_core.config import ReportConfig

EVIL = '"><script>alert(1)</script>'
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


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """The published page and record of a report over all components but score."""
    tmp_path = tmp_path_factory.mktemp("published")
    inputs = everything(tmp_path / "made")
    inputs["probe"] = artifact(
        tmp_path / "made", "probe", {}, metrics={"best_block": 1.0, "top1": 0.9, "pixel_baseline_top1": 0.8},
        properties={"accuracy_per_block": [0.7, 0.9]}, protocols={"top1": {"split": "test", "layer": EVIL}},
    )  # fmt: skip
    ctx = context_of(tmp_path, "report")
    report.run(ReportConfig(title=f"T {EVIL}", samples_per_class=2, reconstructions=5), inputs, ctx)
    made = artifact(
        tmp_path / "made",
        "report",
        {name: functools.partial(shutil.copy, ctx.path(name)) for name in ("report.html", "results.json")},
    )
    record = {
        "preset": f"p {EVIL}",
        "seconds": {"ingest": 0.01, "prior": 75.0},
        "reused": {"ingest": True, "prior": False},
        "mlflow": {"tracking_uri": f"sqlite:///{EVIL}", "url": "https://mlflow.example/#/runs/1"},
    }
    target = report.publish(made, record, str(tmp_path / "reports"))
    results = json.loads((tmp_path / "reports" / "results.json").read_text())
    return Path(target).read_text(), results


def test_remarks_stand_before_the_pictures(tmp_path: Path) -> None:
    inputs = everything(tmp_path / "made")
    counts = {"train": [2, 2, 1], "test": [1000, 100, 100]}
    inputs["ingest"] = with_fields(inputs["ingest"], properties={**inputs["ingest"].properties, "class_counts": counts})
    inputs["classify"] = with_fields(inputs["classify"], metrics={"test_accuracy": 0.8})
    ctx = context_of(tmp_path, "report")
    report.run(ReportConfig(), inputs, ctx)
    (remark,) = json.loads(Path(ctx.path("results.json")).read_text())["remarks"]
    assert remark["component"] == "classify"
    assert remark["remedy"].startswith("try more classify.steps (now 1000)")
    html = Path(ctx.path("report.html")).read_text()
    assert html.index("it is right on 80% of held-out images") < html.index('id="reconstructions"')


def test_page_is_whole_and_self_contained(published: tuple[str, dict[str, Any]]) -> None:
    html = checked(published[0])
    names = {tag for tag, _ in html.tags}
    assert not names & {"script", "link", "iframe", "object", "embed"}
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in html.of("img"))
    assert not re.search(r"url\(|@import", published[0])
    links = [str(link["href"]) for link in html.of("a")]
    headings = {attributes.get("id") for attributes in html.of("h2")}
    within = {link[1:] for link in links if link.startswith("#")}
    assert within == headings | {"main"}
    outside = [link for link in links if not link.startswith(("#", "data:"))]
    assert outside == ["https://mlflow.example/#/runs/1", "results.json"]
    assert len(html.of("input")) == len(html.of("img"))
    assert headings == {"samples", "reconstructions", "numbers", "paper", "probe", "training", "run", "lineage"}
    assert len(html.of("h1")) == 1
    assert html.of("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in html.of("img"))
    assert all(drawing["aria-label"] for drawing in html.of("svg"))


def test_everything_is_escaped(published: tuple[str, dict[str, Any]]) -> None:
    assert "<script" not in published[0]
    assert published[0].count("&lt;script&gt;") >= 4
    assert "&lt;cat&gt;" in published[0]


def test_page_says_what_the_run_did(published: tuple[str, dict[str, Any]]) -> None:
    text = " ".join("".join(checked(published[0]).texts).split())
    assert "1 of 2 components ran" in text
    assert "1 min 15 s" in text
    assert "12 test images of 3 classes" in text
    assert "from ingest, quantize; made in 2.5 s" in text
    assert page.RUN_MARK not in published[0]
    assert page.PRESET_MARK not in published[0]
    record = published[1]
    assert (record["preset"], record["reused"]) == (f"p {EVIL}", {"ingest": True, "prior": False})


def test_curves_show_losses_first_and_leave_rates_and_the_machine_out() -> None:
    hidden = ["images_per_s", "system/mfu", "eval/seconds", "eval/best_step", "discriminator_learning_rate"]
    names = {name: [1.0, 2.0] for name in ["eval/psnr_db", "loss", *hidden]}
    assert [name for name, _ in page.training_charts(curves(names).encode())] == ["loss", "psnr db, held-out"]
    many = names | {f"other_{i}": [1.0, 2.0] for i in range(9)}
    assert len(page.training_charts(curves(many).encode())) == page.MOST_CURVES
    both = {"psnr_db": [1.0, 2.0], "eval/psnr_db": [1.5, 1.75]}
    ((name, chart),) = page.training_charts(curves(both).encode())
    assert name == "psnr db"
    assert chart.csv.splitlines()[1:] == [
        "training,0.0,1.0",
        "training,10.0,2.0",
        "held-out,0.0,1.5",
        "held-out,10.0,1.75",
    ]


def test_importing_costs_no_torch_and_no_beam() -> None:
    heavy = "'torch', 'apache_beam', 'jinja2', 'PIL', 'pyarrow'"
    modules = "components.report.component, components.score.component"
    code = f"import sys; import {modules}; assert not {{{heavy}}} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    tmp_path = tmp_path_factory.mktemp("artifacts")
    made = everything(tmp_path)
    made["score"] = artifact(tmp_path, "score", {}, metrics=SCORES, protocols={"psnr_db": {"split": "test"}})
    made["probe"] = artifact(
        tmp_path, "probe", {}, properties={"accuracy_per_block": [0.7, 0.9]},
        metrics={"best_block": 1.0, "top1": 0.9, "pixel_baseline_top1": 0.8, "block_00": 0.7, "block_01": 0.9},
    )  # fmt: skip
    return made


def test_all_required_figures(artifacts: dict[str, Any]) -> None:
    record = report.collect("smoke", artifacts)
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
    record = report.collect("smoke", few)
    assert record["quantizer"] == without
    assert not {"prior", "samples", "classifier", "probe"} & set(record)
    assert set(record["seconds"]) == set(record["artifacts"]) == set(few)


def test_a_stamp_replaces_what_belongs_to_a_run(artifacts: dict[str, Any]) -> None:
    record = report.collect("smoke", artifacts)
    done = {"preset": "mine", "seconds": {"ingest": 0.1}, "reused": {"ingest": True}, "mlflow": {"run_id": "r"}}
    stamped = report.stamp(record, done)
    assert {name: stamped[name] for name in done} == done
    assert {n: v for n, v in stamped.items() if n not in done} == {n: v for n, v in record.items() if n not in done}
    assert report.stamp(record, {})["preset"] == "smoke"
