"""The page of costs: its numbers follow from the rows, and a missing row is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import costs
from tests.benchmarks.costs import INGEST, duration, main, page
from tests.benchmarks.imagenet import CODES, IMAGES, STATISTICS, TOKENIZE
from tests.benchmarks.tokenizing import STARTING

MEASURED = {INGEST: 500.0, IMAGES: 10.0, TOKENIZE: 2.0, CODES: 500.0, STATISTICS: 8.0, STARTING: 10.0}
"""The third, sixth, … lie in the last file."""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Rows spread over the benchmarks' files, and one of another device, which counts for nothing."""
    rows = [{"name": name, "value": value} for name, value in MEASURED.items()]
    for index, benchmark in enumerate(costs.BENCHMARKS):
        (tmp_path / f"{benchmark}-cpu.json").write_text(json.dumps(rows[index::3]))
    (tmp_path / "imagenet_rates-gpu.json").write_text(json.dumps([{"name": TOKENIZE, "value": 1e9}]))
    return tmp_path


def test_a_table_by_hand(results: Path) -> None:
    lines = page(1_000_000, [1, 100], results).splitlines()
    assert lines[0] == "| 1,000,000 images | images/s of a worker | 1 worker | 100 workers | on disk |"
    assert lines[1] == "|---|--:|--:|--:|--:|"
    assert lines[2] == "| ingest | 500 | 33.5 min | 30 s | 100.0 GB |"
    assert lines[3] == "| tokenize (small encoder, 1,024 tokens) | 2 | 5.8 days | 83.5 min | 2.0 GB |"
    assert lines[4] == "| statistics (Inception) | 8 | 34.7 h | 21.0 min | – |"


@pytest.mark.parametrize(
    ("value", "text"), [(3.4, "3 s"), (119.0, "119 s"), (120.0, "2.0 min"), (7200.0, "2.0 h"), (172_800.0, "2.0 days")]
)
def test_durations(value: float, text: str) -> None:
    assert duration(value) == text


def test_a_row_that_was_not_measured_is_named(results: Path) -> None:
    (results / "imagenet_rates-cpu.json").write_text(json.dumps([{"name": TOKENIZE, "value": "not measured"}]))
    with pytest.raises(LookupError, match="was not measured; run `make bench`"):
        page(results=results)


def test_the_command_prints_what_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--workers", "3"]) == 0
    shown = capsys.readouterr().out
    assert "| 3 workers |" in shown
    assert shown.count("\n") == 5
    assert page(workers=[3]) == shown.strip()
    assert costs.steps()[0][1].rate > 0
