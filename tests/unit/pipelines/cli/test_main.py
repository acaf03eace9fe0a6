"""The command line: words, exit codes, one-line errors, and that help stays light."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import presets
from pipelines.cli import commands
from pipelines.cli import main as cli
from pipelines.orchestration import launch
from vim_core.errors import ConfigError, DataError

HEAVY = ("torch", "ray", "apache_beam", "mlflow", "dagster", "omegaconf", "pandas", "pyarrow")


@pytest.fixture
def fake(flow: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Every preset is the fake flow; `asked` keeps what was loaded."""
    flow.asked = []

    def load(preset: str, overrides: list[str]) -> Any:
        flow.asked.append((preset, overrides))
        return flow.config

    monkeypatch.setattr(presets, "load", load)
    return flow


def test_run_does_everything_then_reuses_it_and_says_so(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--preset", "fake"]) == 0
    first = capsys.readouterr().out
    assert fake.ran == ["ingest", "quantize", "tokenize", "prior"]
    assert "preset      fake: ingest, quantize, tokenize, prior" in first
    assert fake.config.run.root in first
    assert "vimctl ui --preset fake" in first
    assert cli.main(["run", "--preset", "fake"]) == 0
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if " reused " in line]
    assert rows == [[name, "reused"] for name in ("ingest", "quantize", "tokenize", "prior")]


@pytest.mark.parametrize(
    "words",
    [
        ["quantize", "--preset", "p", "a=1", "b=2"], ["--preset", "p", "quantize", "a=1", "b=2"],
        ["a=1", "--preset=p", "b=2", "quantize"], ["quantize", "a=1", "b=2", "--preset", "p"],
    ],
)  # fmt: skip
def test_component_and_overrides_may_stand_anywhere(fake: Any, words: list[str]) -> None:
    assert cli.main(["run", *words]) == 0
    assert fake.asked == [("p", ["a=1", "b=2"])]
    assert fake.ran == ["ingest", "quantize"]


def test_only_and_force(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "tokenize", "--only"]) == 1
    assert "needs the output of" in capsys.readouterr().err
    assert cli.main(["run", "quantize"]) == 0
    assert cli.main(["run", "quantize", "--force"]) == 0
    assert fake.ran == ["ingest", "quantize", "quantize"]
    assert cli.main(["run", "--force"]) == 0
    assert fake.ran[3:] == ["ingest", "quantize", "tokenize", "prior"]


@pytest.mark.parametrize(
    ("error", "status"), [(ConfigError("prior.dropot: unknown\n setting"), 2), (DataError("image.png: truncated"), 1)]
)
def test_an_error_for_people_is_one_line_and_a_status(
    fake: Any, capsys: pytest.CaptureFixture[str], error: Exception, status: int
) -> None:
    def fail(ctx: Any) -> None:
        raise error

    fake.acts["ingest"] = fail
    assert cli.main(["run"]) == status
    assert capsys.readouterr().err == f"vimctl: {' '.join(str(error).split())}\n"


def test_an_unexpected_error_keeps_its_traceback(fake: Any) -> None:
    def fail(ctx: Any) -> None:
        raise ZeroDivisionError("a defect")

    fake.acts["ingest"] = fail
    with pytest.raises(ZeroDivisionError, match="a defect"):
        cli.main(["run"])


def test_an_interrupt_says_that_work_is_kept(
    fake: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "run", interrupted)
    assert cli.main(["run"]) == 130
    assert "work is kept, the same command continues" in capsys.readouterr().err


def test_mistakes_in_words_are_config_errors(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "quantize", "prior"]) == 2
    assert "quantize prior: name one component" in capsys.readouterr().err
    assert cli.main(["run", "proir"]) == 2
    assert "did you mean prior?" in capsys.readouterr().err
    assert cli.main(["config", "quantize"]) == 2
    assert "quantize: expected key=value" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", "--frce"])
    assert caught.value.code == 2
    assert "--frce" in capsys.readouterr().err


def test_report_prints_the_published_page_or_figures(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report"]) == 1
    assert "no report yet; make it with `vimctl run --preset fake`" in capsys.readouterr().err
    folder = Path(fake.config.run.root) / "reports" / "fake"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("<html>")
    (folder / "results.json").write_text('{"preset": "fake"}')
    assert cli.main(["report"]) == 0
    assert capsys.readouterr().out == f"{folder}/report.html\n"
    assert cli.main(["report", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"preset": "fake"}


def test_config_prints_settings_that_load_again(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["components"] == ["ingest", "quantize", "tokenize", "prior"]
    assert printed["prior"]["dropout"] == 0.1


def test_presets_are_listed_with_their_headlines(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["presets"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {"smoke", "digits", "tiny_imagenet", "imagenet256_base"} <= set(lines)
    assert lines["digits"].startswith("Handwritten digits")


def test_words_split_into_component_and_overrides() -> None:
    assert commands.split_words(["a.b=1", "prior", "c=x=y"]) == ("prior", ["a.b=1", "c=x=y"])
    assert commands.split_words([]) == (None, [])


def test_help_imports_nothing_heavy_and_shows_examples() -> None:
    script = (
        "import sys; from pipelines.cli import main as cli\n"
        "try: cli.main(['--help'])\n"
        f"finally: sys.stderr.write(' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "vimctl run --preset digits prior.dropout=0.2" in done.stdout
