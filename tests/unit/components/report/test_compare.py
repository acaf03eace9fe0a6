"""Runs side by side: one protocol or refused by field; best only where intervals lie apart."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from components.report import compare, grids, page
from components.report.compare import Run
from components.report.grids import Picture
from tests.support.html import checked

EVIL = '"><script>alert(1)</script>'
PROTOCOL = {"figure": "fd_classifier", "compares": "samples with real images", "split": "samples", "count": 1000,
            "network": "classifier", "network_digest": "judge", "sampling": {"guidance": 1.0}}  # fmt: skip


def run(name: str, value: float, half: float | None = 0.1, **changes: Any) -> Run:
    """A run with one distance and its interval; `changes` go to the protocol."""
    samples = {"fd_classifier": value}
    if half is not None:
        samples |= {"fd_classifier_low": value - half, "fd_classifier_high": value + half}
    record = {
        "preset": name,
        "samples": samples,
        "protocols": {"samples.fd_classifier": {**PROTOCOL, **changes}},
        "settings": {"prior": {"steps": int(value * 100), "stack": {"blocks": 1, "dim": 8}}, "report": {"title": name}},
        "compute": {"prior": {"seconds": 75.0, "device": "cpu"}},
        "data": {"digest": "images"},
    }
    return Run(name, record)


def test_one_protocol_stands_side_by_side() -> None:
    [line], refused = compare.compare([run("a", 2.0), run("b", 1.0), run("c", 3.0)])
    assert refused == []
    assert [(cell.value, cell.interval) for cell in line.cells][:2] == [
        ("2.000", "1.900 to 2.100"), ("1.000", "0.900 to 1.100")]  # fmt: skip
    assert [cell.best for cell in line.cells] == [False, True, False]
    assert line.verdict == "b lowest"


@pytest.mark.parametrize(
    ("runs", "verdict"),
    [
        ([run("a", 2.0), run("b", 1.9)], "b lowest; intervals overlap"),
        ([run("a", 2.0), run("b", 1.9, None)], "b lowest; without intervals"),
        ([run("a", 2.0), run("b", 2.0)], "equal"),
    ],
)
def test_nothing_is_best_without_intervals_that_lie_apart(runs: list[Run], verdict: str) -> None:
    [line], _ = compare.compare(runs)
    assert (line.verdict, [cell.best for cell in line.cells]) == (verdict, [False, False])


def test_higher_is_better_for_accuracy() -> None:
    low, high = run("a", 2.0), run("b", 1.0)
    for one, value in ((low, 0.5), (high, 0.9)):
        record: Any = one.record
        record["samples"] = {"conditional_accuracy": value, "conditional_accuracy_low": value - 0.1,
                             "conditional_accuracy_high": value + 0.1}  # fmt: skip
        record["protocols"] = {"samples.conditional_accuracy": PROTOCOL}
    [line], _ = compare.compare([low, high])
    assert [cell.best for cell in line.cells] == [False, True]


def test_another_protocol_is_refused_by_field() -> None:
    a, b, c = run("a", 2.0), run("b", 1.0, count=60, network_digest="other"), run("c", 1.5)
    [line, grey], [refusal] = compare.compare([a, b, c])
    assert [cell.value for cell in line.cells] == ["2.000", "–", "1.500"]
    assert [cell.value for cell in grey.cells] == ["–", "1.000", "–"]
    assert (line.comparable, grey.comparable) == (True, False)
    assert grey.verdict == "not comparable: other count, network digest"
    assert refusal.runs == ("a", "b")
    assert refusal.fields == (("count", "1000", "60"), ("network_digest", "judge", "other"))
    assert [(name, value) for name, value, _ in refusal.values] == [("a", "2.000"), ("b", "1.000"), ("c", "1.500")]
    [alone], refusals = compare.compare([a, b])
    assert ([cell.value for cell in alone.cells], len(refusals)) == (["2.000", "1.000"], 1)
    assert not any(cell.best for cell in alone.cells)


@pytest.mark.parametrize("network", ["tokenizer", "prior", "prior, fed with the null class"])
def test_what_a_figure_is_about_may_differ(network: str) -> None:
    about = {"network": network, "reference": "labels of the code table"}
    a, b = (run(n, 2.0, 0.1, **about, network_digest=n, reference_digest=n) for n in "ab")
    assert len(compare.compare([a, b])[0]) == 1
    other = Run("c", {**b.record, "data": {"digest": "other images"}})
    [refusal] = compare.compare([a, other])[1]
    assert [name for name, _, _ in refusal.fields] == ["reference_digest"]


def test_settings_that_differ_by_dotted_name() -> None:
    a, b = run("a", 2.0), run("b", 1.0)
    assert compare.settings_that_differ([a, b]) == [("prior.steps", ("200", "100"))]
    record: Any = deepcopy(b.record)
    del record["settings"]["prior"]["stack"]["dim"]
    assert compare.settings_that_differ([a, Run("b", record)])[1] == ("prior.steps", ("200", "100"))
    assert compare.settings_that_differ([a, Run("b", record)])[0] == ("prior.stack.dim", ("8", "–"))
    del record["settings"]["prior"]
    record["settings"]["probe"] = {"steps": 3}
    without = Run("b", record)
    assert compare.settings_that_differ([a, without]) == [("prior", ("present", "–")), ("probe", ("–", "present"))]
    old = Run("old", {})
    assert compare.settings_that_differ([a, old, b]) == [("prior.steps", ("200", "not recorded", "100"))]
    assert compare.settings_that_differ([a, old]) == []
    assert compare.costs([a, b]) == [("prior", ("1 min 15 s, cpu", "1 min 15 s, cpu"))]


def test_the_page_is_whole_escaped_and_says_what_it_refuses() -> None:
    picture = Picture("data:image/png;base64,AAAA", 10, 20, 1, f"alt {EVIL}", f"class {EVIL}")
    a = Run(f"a {EVIL}", run("a", 2.0).record, "folder", (picture,))
    html = page.comparison_page([a, run("b", 1.0, count=60)])
    seen = checked(html)
    assert "<script" not in html
    assert {one.get("id") for one in seen.of("h2")} >= {"figures", "refused", "settings", "samples", "compute"}
    assert "differ in count" in " ".join("".join(seen.texts).split())
    [image] = seen.of("img")
    assert image["src"] == picture.source
    assert len(seen.of("h1")) == 1


def test_pictures_come_from_a_reports_page_by_section() -> None:
    html = """<section aria-labelledby="samples"><div class="strip"><span class="class">a &amp; b</span>
      <img src="data:image/png;base64,AA" alt="x" width="8" height="4"></div>
      <img src="https://elsewhere.example/x.png" alt="y"></section>
      <section aria-labelledby="reconstructions"><img src="data:image/png;base64,BB" alt="z" width="w"></section>"""
    found = grids.read_pictures(html)
    assert found["samples"] == (Picture("data:image/png;base64,AA", 8, 4, 1, "x", "a & b"),)
    assert found["reconstructions"] == (Picture("data:image/png;base64,BB", 0, 0, 1, "z", ""),)
