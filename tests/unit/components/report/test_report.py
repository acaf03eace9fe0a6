"""The page: complete, self-contained, escaped; and its copies stamped with what one run did."""

from __future__ import annotations

import base64
import functools
import io as memory
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.report import charts, grids, page
from components.report import component as report
from tests.support.synthetic import CLASSES, SIZE, artifact, context_of, curves, everything, generated, pictures, tables
from vim_core.config import ReportConfig

EVIL = '"><script>alert(1)</script>'
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Checker(HTMLParser):
    """Collects tags, texts and attributes and checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of all elements of this tag."""
        return [attributes for name, attributes in self.tags if name == tag]


def checked(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker


@pytest.fixture
def published(tmp_path: Path) -> tuple[str, dict[str, Any]]:
    """The published page and record of a report over all components but score and probe."""
    inputs = everything(tmp_path / "made")
    inputs["probe"] = artifact(
        tmp_path / "made",
        "probe",
        {},
        metrics={"best_block": 1.0, "top1": 0.9, "pixel_baseline_top1": 0.8},
        properties={"accuracy_per_block": [0.7, 0.9]},
        protocols={"top1": {"split": "test", "layer": EVIL}},
    )
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


def test_page_is_whole_and_self_contained(published: tuple[str, dict[str, Any]]) -> None:
    html = checked(published[0])
    names = {tag for tag, _ in html.tags}
    assert not names & {"script", "link", "iframe", "object", "embed"}
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in html.of("img"))
    assert not re.search(r"url\(|@import", published[0])
    assert [link["href"] for link in html.of("a")] == ["#main", "https://mlflow.example/#/runs/1"]
    headings = {attributes.get("id") for attributes in html.of("h2")}
    assert headings == {"samples", "reconstructions", "numbers", "paper", "probe", "training", "run", "lineage"}


def test_page_has_one_heading_language_and_texts_for_pictures(published: tuple[str, dict[str, Any]]) -> None:
    html = checked(published[0])
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


def test_record_is_stamped(published: tuple[str, dict[str, Any]]) -> None:
    record = published[1]
    assert record["preset"] == f"p {EVIL}"
    assert record["reused"] == {"ingest": True, "prior": False}
    assert record["seconds"] == {"ingest": 0.01, "prior": 75.0}
    assert record["samples"] == {"count": 9}


def test_pictures_show_the_images_themselves(tmp_path: Path) -> None:
    made = tables(tmp_path)
    [first, *_] = grids.reconstructions(made["ingest"], made["reconstruct"], {"image-000": 21.34}, 3)
    pixels = opened(first)
    np.testing.assert_array_equal(pixels[:SIZE, :, :3], pictures(12, 0)[0])
    assert (pixels[SIZE : SIZE + grids.GAP, :, 3] == 0).all()
    assert (pixels.shape, first.caption) == ((2 * SIZE + grids.GAP, SIZE, 4), "21.3 dB")


def test_a_strip_per_class_holds_only_that_class(tmp_path: Path) -> None:
    made = tables(tmp_path)
    sample = generated(tmp_path, made["quantize"])["sample"]
    strips = grids.samples_by_class(sample, CLASSES, 2, 20)
    assert [strip.caption for strip in strips] == list(CLASSES)
    images = pictures(9, 3)
    for label, strip in enumerate(strips):
        left = opened(strip)[:, :SIZE, :3]
        assert any((left == images[i]).all() for i in range(label, 9, len(CLASSES)))
    assert len(grids.samples_by_class(sample, CLASSES, 2, 1)) == 1


def test_samples_without_classes_have_no_caption(tmp_path: Path) -> None:
    made = tables(tmp_path)
    sample = generated(tmp_path, made["quantize"], labelled=False)["sample"]
    assert [strip.caption for strip in grids.samples_by_class(sample, CLASSES, 4, 20)] == ["", "", ""]


def test_a_preset_with_little_makes_a_small_page(tmp_path: Path) -> None:
    ctx = context_of(tmp_path, "report")
    report.run(ReportConfig(), {"ingest": tables(tmp_path)["ingest"]}, ctx)
    html = checked(Path(ctx.path("report.html")).read_text())
    assert {attributes.get("id") for attributes in html.of("h2")} == {"lineage"}


def test_curves_choose_losses_first_and_skip_rates() -> None:
    names = {f"other_{i}": [1.0, 2.0] for i in range(9)} | {"images_per_s": [5.0, 6.0], "loss": [3.0, 2.0]}
    drawn = page.training_charts(curves(names).encode())
    assert len(drawn) == page.MOST_CURVES
    assert drawn[0][0] == "loss"
    assert "images per s" not in {name for name, _ in drawn}


def test_curves_show_held_out_figures_and_leave_the_machine_out() -> None:
    hidden = ["system/mfu", "system/data_wait_share", "eval/seconds", "eval/best_step", "discriminator_learning_rate"]
    names = {name: [1.0, 2.0] for name in ["eval/psnr_db", "loss", *hidden]}
    assert [name for name, _ in page.training_charts(curves(names).encode())] == ["loss", "held-out psnr db"]


def test_a_curve_survives_values_that_are_not_finite() -> None:
    drawn = charts.line_chart([(0, 1.0), (1, float("nan")), (2, float("inf")), (3, 0.5)], "loss")
    assert "nan" not in drawn
    assert "inf" not in drawn
    assert charts.line_chart([(0, float("nan"))], "loss") == ""
    checked(charts.line_chart([(0, 2.0), (5, 2.0)], EVIL))


def test_points_stay_inside_the_drawing() -> None:
    rng = np.random.default_rng(0)
    for drawn in (
        charts.line_chart([(i, v) for i, v in enumerate(rng.normal(size=999) * 1e4)], "x"),
        charts.block_chart([0.2, 1.0, 0.9], 0.95, "x"),
    ):
        for path in re.findall(r' d="M([^"]+)"', drawn):
            points = np.array([pair.split(",") for pair in path.split()], dtype=float)
            assert (points >= 0).all()
            assert (points <= [charts.WIDTH, charts.HEIGHT]).all()


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.812, 0.987), (-3.1, 2.2), (1e-6, 3e-6), (0.0, 54321.0)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    values = charts.ticks(low, high)
    assert 2 <= len(values) <= 6
    assert all(low - 1e-9 * abs(high) <= value <= high * (1 + 1e-9) for value in values)
    step = values[1] - values[0]
    assert round(step / 10 ** np.floor(np.log10(step) + 1e-9)) in (1, 2, 5)


def test_thinning_keeps_means_and_the_last_step() -> None:
    points = [(float(i), float(i)) for i in range(1000)]
    thin = charts.thinned(points, 100)
    assert (len(thin), thin[-1][0]) == (100, 999.0)
    assert np.mean([value for _, value in thin]) == pytest.approx(np.mean([value for _, value in points]))


def opened(picture: grids.Picture) -> np.ndarray:
    data = base64.b64decode(picture.source.partition(",")[2])
    return np.asarray(Image.open(memory.BytesIO(data)))


def test_importing_costs_no_torch_and_no_beam() -> None:
    heavy = "'torch', 'apache_beam', 'jinja2', 'PIL', 'pyarrow'"
    modules = "components.report.component, components.score.component"
    code = f"import sys; import {modules}; assert not {{{heavy}}} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
