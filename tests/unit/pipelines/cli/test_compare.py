"""`vimctl compare`: reports are found by folder, file, artifact and preset; mistakes are named."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest

from components.artifacts import store
from pipelines.cli import compare
from pipelines.cli import main as cli
from tests.support.html import checked
from tests.support.synthetic import artifact
from vim_core.errors import ConfigError, DataError

PROTOCOL = {"figure": "psnr_db", "split": "test", "count": 302}


def report(folder: Path, preset: str, value: float, **protocol: Any) -> Path:
    """A published report with one figure."""
    folder.mkdir(parents=True)
    record = {"preset": preset, "quantizer": {"psnr_db": value}, "settings": {"prior": {"steps": int(value)}},
              "protocols": {"quantizer.psnr_db": {**PROTOCOL, **protocol}}, "compute": {}}  # fmt: skip
    (folder / "results.json").write_text(json.dumps(record))
    picture = '<img src="data:image/png;base64,AA" alt="a strip" width="1" height="1">'
    (folder / "report.html").write_text(f'<section aria-labelledby="samples">{picture}</section>')
    return folder


def test_two_folders_make_a_page_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = report(tmp_path / "one", "first", 20.0), report(tmp_path / "other", "second", 21.0)
    page = tmp_path / "page.html"
    assert cli.main(["compare", str(one), str(other / "results.json"), "--out", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "quantizer.psnr_db" in printed
    assert "prior.steps: 20 | 21" in printed
    assert str(page) in printed
    html = page.read_text()
    assert "20.00 dB" in html
    assert "21.00 dB" in html
    assert html.count("data:image/png;base64,AA") == 2


def test_another_protocol_is_refused_in_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = report(tmp_path / "one", "a", 20.0), report(tmp_path / "other", "b", 21.0, count=60)
    assert cli.main(["compare", str(one), str(other), "--out", str(tmp_path / "page.html")]) == 0
    assert "refused     quantizer.psnr_db: a and b differ in count" in capsys.readouterr().out


def test_runs_of_one_preset_are_named_by_what_differs_and_the_page_lies_with_the_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [report(tmp_path / name, "same", 20.0) for name in "abc"]
    assert [run.name for run in compare.write([*map(str, folders)], [], str(tmp_path / "p.html"))] == [
        "same (1)", "same (2)", "same (3)"]  # fmt: skip
    for folder, dropout in zip(folders, (0.1, 0.2, 0.2), strict=True):
        record = json.loads((folder / "results.json").read_text())
        record["settings"] = {"prior": {"dropout": dropout, "steps": 9}}
        (folder / "results.json").write_text(json.dumps(record))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", *map(str, folders), f"run.root={tmp_path / 'root'}"]) == 0
    target = tmp_path / "root" / "reports" / "compare-a-b-c.html"
    assert str(target) in capsys.readouterr().out.replace("\n", "")
    texts = checked(target.read_text()).texts
    assert {"same · prior.dropout=0.1", "same · prior.dropout=0.2 (1)", "same · prior.dropout=0.2 (2)"} <= set(texts)
    assert not (tmp_path / "compare.html").exists()


def test_an_artifact_of_report_is_read_through_its_manifest(tmp_path: Path) -> None:
    source = report(tmp_path / "source", "p", 20.0)
    files = {
        name: lambda uri, name=name: Path(uri).write_bytes((source / name).read_bytes())
        for name in (compare.RESULTS, compare.PAGE)
    }
    stored = artifact(tmp_path, "report", files)
    for name in (compare.RESULTS, compare.PAGE):
        Path(stored.folder, name).rename(Path(stored.folder, f"attempt-{name}"))
    entries = [replace(entry, path=f"attempt-{entry.name}") for entry in stored.manifest.files]
    Path(stored.folder, "manifest.json").write_bytes(store.dump(replace(stored.manifest, files=entries)))
    uris = compare.locate(stored.folder, [])
    assert [Path(uri).name for uri in uris] == ["attempt-results.json", "attempt-report.html"]
    other = artifact(tmp_path, "prior", {})
    Path(other.folder).mkdir(parents=True)
    Path(other.folder, "manifest.json").write_bytes(store.dump(other.manifest))
    with pytest.raises(DataError, match="is an artifact of prior, expected one of report"):
        compare.locate(other.folder, [])


def test_a_preset_stands_for_its_last_report(tmp_path: Path) -> None:
    root = f"run.root={tmp_path}"
    with pytest.raises(DataError, match=r"no report yet; make it with `vimctl run --preset smoke run\.root="):
        compare.locate("smoke", [root])
    folder = report(tmp_path / "reports" / "smoke", "smoke", 20.0)
    assert compare.locate("smoke", [root])[0] == str(folder / "results.json")


def test_mistakes_are_named(tmp_path: Path) -> None:
    one = str(report(tmp_path / "one", "a", 20.0))
    with pytest.raises(ConfigError, match="name two runs or more"):
        compare.write([one], [], str(tmp_path / "p.html"))
    with pytest.raises(DataError, match=r"no manifest\.json lies there"):
        compare.locate(str(tmp_path), [])
    with pytest.raises(ConfigError, match="smokk"):
        compare.locate("smokk", [])
    for content in ("{", "[]", "{}"):
        Path(one, "results.json").write_text(content)
        with pytest.raises(DataError, match="is not the record of a report"):
            compare.read("a", f"{one}/results.json", f"{one}/report.html")


def test_reports_of_a_preset_are_listed_by_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for key, (preset, steps) in enumerate([("digits", 20.0), ("smoke", 20.0), ("digits", 21.0)]):
        source = report(tmp_path / f"source-{key}", preset, steps)
        files = {name: partial(copyfile, source / name) for name in (compare.RESULTS, compare.PAGE)}
        stored = artifact(tmp_path / str(key), "report", files)
        manifest = replace(stored.manifest, fingerprint=f"{key}" * 20)
        folder = tmp_path / "root" / "report" / manifest.fingerprint
        folder.parent.mkdir(parents=True, exist_ok=True)
        Path(stored.folder).rename(folder)
        (folder / "manifest.json").write_bytes(store.dump(manifest))
    assert cli.main(["report", "--preset", "digits", "--list", f"run.root={tmp_path / 'root'}"]) == 0
    lines = sorted(capsys.readouterr().out.splitlines())
    assert [line.split()[0][:8] for line in lines] == ["report/0", "report/2"]
    assert ["digits · prior.steps=20" in lines[0], "digits · prior.steps=21" in lines[1]] == [True, True]
    assert all(Path(line.split()[-1]).is_file() for line in lines)
    assert cli.main(["report", "--preset", "tiny_imagenet", "--list", f"run.root={tmp_path / 'root'}"]) == 1
    assert "no report of tiny_imagenet" in capsys.readouterr().err
