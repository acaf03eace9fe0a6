"""`vimctl run`, `config`, `presets` and `report` over a fake flow: what is executed and what is printed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.artifacts import inventory, store
from pipelines.cli import main as cli
from pipelines.cli import run
from pipelines.orchestration import running
from tests.support.archived import make

Capture = pytest.CaptureFixture[str]


def test_run_does_everything_then_reuses_it_and_says_so(fake: Any, capsys: Capture) -> None:
    assert cli.main(["run", "--preset", "fake"]) == 0
    first = capsys.readouterr().out
    assert fake.ran == ["ingest", "quantize", "tokenize", "prior"]
    assert "preset      fake: ingest, quantize, tokenize, prior" in first
    assert fake.config.run.root in first
    assert "vimctl ui --preset fake" in first
    assert cli.main(["run", "--preset", "fake"]) == 0
    rows = [line.split()[:5] for line in capsys.readouterr().out.splitlines() if " reused " in line]
    names = ("ingest", "quantize", "tokenize", "prior")
    assert rows == [[str(number), "of", "4", name, "reused"] for number, name in enumerate(names, start=1)]


def test_mlflows_table_is_named_where_a_server_shows_it(fake: Any) -> None:
    class Tracked:
        uri, experiment_id = "sqlite:////somewhere/mlflow.db", "3"

    session: Any = SimpleNamespace(tracking=Tracked(), config=fake.config)
    assert run.session_page(session) == ""
    running.announce(fake.config, {}, {"MLflow": "http://127.0.0.1:5777"})
    table = "/#/experiments/3/runs?workflowType=machine_learning&viewStateShareKey=vim"
    assert run.session_page(session) == f"http://127.0.0.1:5777{table}"
    Tracked.uri = "https://mlflow.example"
    assert run.session_page(session) == f"https://mlflow.example{table}"


def test_only_and_force(fake: Any, capsys: Capture) -> None:
    assert cli.main(["run", "tokenize", "--only"]) == 1
    assert "needs the output of" in capsys.readouterr().err
    assert cli.main(["run", "quantize"]) == 0
    assert cli.main(["run", "quantize", "--force"]) == 0
    assert fake.ran == ["ingest", "quantize", "quantize"]
    fake.config.components = ["ingest", "quantize"]
    assert cli.main(["run", "--force"]) == 0
    assert fake.ran[3:] == ["ingest", "quantize"]


def test_a_dry_run_says_what_would_run_and_why_and_runs_nothing(fake: Any, capsys: Capture) -> None:
    def look(*words: str) -> list[str]:
        ran = list(fake.ran)
        assert cli.main(["run", "--dry-run", *words]) == 0
        assert fake.ran == ran
        return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    first = look()
    assert first[0] == "1 of 4 ingest would run no earlier run none in this root"
    assert first[1].endswith("no earlier run follows ingest; none in this root")
    assert first[-1].endswith("about 0.0 s by the durations of earlier runs; no earlier run of "
                              "ingest, quantize, tokenize, prior")  # fmt: skip
    assert not Path(fake.config.run.root).exists()
    assert cli.main(["run"]) == 0
    capsys.readouterr()
    assert [line.split()[4] for line in look()[:-1]] == ["reused"] * 4
    made = inventory.artifacts(fake.config.run.root, "prior")
    slow = replace(made[0].manifest, seconds=30.0)
    Path(made[0].folder, "manifest.json").write_bytes(store.dump(slow))
    fake.config.prior.steps *= 2
    steps = fake.config.prior.steps
    *reused, prior, total = look()
    assert [line.split()[4] for line in reused] == ["reused"] * 3
    unlike = f"unlike prior/{slow.fingerprint[:8]}: prior.steps={steps}, there {steps // 2}"
    assert prior == f"4 of 4 prior would run about 1 min 0 s {unlike}"
    assert total == "1 of 4 components would run, about 1 min 0 s by the durations of earlier runs"
    fake.config.prior.dropout = 0.3
    assert "roughly 1 min 0 s" in look()[-2]
    again = look("tokenize", "--from", "quantize")
    assert again[1].endswith("made again, as asked")
    assert again[2].endswith("follows quantize")
    assert look("quantize", "--force")[0].split()[4] == "reused"


def test_report_prints_the_published_page_or_figures(fake: Any, capsys: Capture) -> None:
    assert cli.main(["report", "--preset", "fake"]) == 1
    assert "no report yet; make it with `vimctl run --preset fake run.root=" in capsys.readouterr().err
    folder = Path(fake.config.run.root) / "reports" / "fake"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("<html>")
    (folder / "results.json").write_text('{"preset": "fake"}')
    assert cli.main(["report"]) == 0
    assert capsys.readouterr().out == f"{folder}/report.html\n"
    assert cli.main(["report", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"preset": "fake"}
    earlier = make(fake.config.run.root, "report", 1)
    entry = replace(earlier.manifest.files[0], name="report.html")
    Path(earlier.folder, "manifest.json").write_bytes(store.dump(replace(earlier.manifest, files=[entry])))
    assert cli.main(["report", "report/0"]) == 0
    assert capsys.readouterr().out == f"{earlier.folder}/{entry.path}\n"


@pytest.mark.parametrize("words", [["--diff", "smoke"], ["--diff", "--preset", "smoke"]])
def test_differences_are_of_the_named_preset(words: list[str], capsys: Capture) -> None:
    assert cli.main(["config", *words, "prior.steps=61"]) == 0
    assert "  steps: 61  # default 1000\n" in capsys.readouterr().out
    assert cli.main(["config", "--preset", "smoke", "--diff", "prior.steps=62"]) == 0
    assert "  steps: 62  # default 1000\n" in capsys.readouterr().out


def test_presets_are_listed_with_their_headlines(capsys: Capture) -> None:
    assert cli.main(["presets"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {"smoke", "digits", "tiny_imagenet", "imagenet256_base"} <= set(lines)
    assert lines["digits"].startswith("Handwritten digits")
