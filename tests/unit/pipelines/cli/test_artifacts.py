"""`vimctl artifacts`: what it prints, as text and as JSON, and how it refuses."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main as cli
from tests.support.archived import DAY, key, leave_work, make, report, there

OLD = "2020-01-01T00:00:00+00:00"
Output = pytest.CaptureFixture[str]


@pytest.fixture
def filled(root: str) -> str:
    """ingest ▶ two tokenizers ▶ codes of one, which a report shows."""
    images = make(root, "ingest", 1, created=OLD)
    about = {"config": {"codebook": {"l2": True}}, "protocols": {"psnr_db": {"split": "test"}}}
    tokenizer = make(root, "quantize", 2, [images], created="2021-01-01T00:00:00+00:00", **about)
    make(root, "quantize", 3, [images], created="2022-01-01T00:00:00+00:00")
    codes = make(root, "tokenize", 4, [images, tokenizer], created=OLD)
    report(root, "digits", {"tokenize": codes})
    return root


def output(capsys: Output, *words: str, status: int = 0) -> str:
    assert cli.main(["artifacts", *words]) == status
    out = capsys.readouterr()
    return out.err if status else out.out


def record(capsys: Output, *words: str) -> Any:
    return json.loads(output(capsys, *words, "--json"))


def test_list_is_newest_first_and_names_reports_and_pins(filled: str, capsys: Output) -> None:
    output(capsys, "pin", f"quantize/{key(2)}", "--reason", "good", "--root", filled)
    rows = record(capsys, "list", "--root", filled)
    assert [int(row["fingerprint"], 16) for row in rows][:2] == [3, 2]
    assert {int(row["fingerprint"], 16): row["reports"] for row in rows} == {1: [], 2: [], 3: [], 4: ["digits"]}
    assert [row["pinned"]["reason"] if row["pinned"] else "" for row in rows[:2]] == ["", "good"]
    assert rows[0]["bytes"] == sum(path.stat().st_size for path in Path(rows[0]["folder"]).glob("data-*/**/*.bin"))
    text = output(capsys, "list", "--root", filled, "quantize").splitlines()
    assert text[0].split() == ["artifact", "digest", "created", "size", "time", "pinned", "reports"]
    assert [line.split()[0] for line in text[1:-1]] == [f"quantize/{key(number)[:8]}" for number in (3, 2)]
    assert text[-1].startswith("2 artifacts, ")
    assert "did you mean prior" in output(capsys, "list", "prio", "--root", filled, status=2)
    assert "name one component" in output(capsys, "list", "prior", "ingest", "--root", filled, status=2)


def test_show_prints_settings_figures_with_their_protocol_and_files(filled: str, capsys: Output) -> None:
    text = output(capsys, "show", f"quantize/{key(2)}", "--verify", "--root", filled)
    lines = [line.split() for line in text.splitlines()]
    assert ["codebook.l2", "true"] in lines
    assert ["psnr_db", "20.5", "(split", "test)"] in lines
    assert ["input0", f"ingest/{key(1)}", "digest", "digest-i"] in lines
    assert any(line[:1] == ["deep/b.bin"] for line in lines)
    assert text.endswith("every file is as it was written\n")
    assert record(capsys, "show", f"quantize/{key(2)}", "--root", filled)["fingerprint"] == key(2)


def test_show_verifies_where_asked(filled: str, capsys: Output) -> None:
    Path(filled, "ingest", key(1), "data-first1", "a.bin").write_bytes(b"changed")
    assert "a.bin: 7 bytes" in output(capsys, "show", "ingest", "--verify", "--root", filled, status=1)
    assert "config" not in output(capsys, "show", "ingest", "--root", filled)


def test_lineage_shows_both_ways(filled: str, capsys: Output) -> None:
    text = output(capsys, "lineage", "tokenize", "--root", filled)
    assert text.index("made from\n") < text.index(f"ingest/{key(1)[:8]}") < text.index("made from it")
    tree = record(capsys, "lineage", "ingest", "--root", filled)
    assert {branch["component"] for branch in tree["downstream"]["branches"]} == {"quantize", "tokenize"}


def test_pins_are_put_on_and_taken_off(filled: str, capsys: Output) -> None:
    assert ": pinned by " in output(capsys, "pin", "ingest", "--root", filled)
    assert "already pinned" in output(capsys, "pin", "ingest", "--root", filled, status=1)
    assert "give more digits" in output(capsys, "pin", "quantize", "--root", filled, status=1)
    assert ": was pinned by " in output(capsys, "unpin", "ingest", "--root", filled)
    assert "is not pinned" in output(capsys, "unpin", "ingest", "--root", filled, status=1)


def test_gc_prints_its_plan_and_executes_it_with_delete(filled: str, capsys: Output) -> None:
    leave_work(filled, "prior", 9)
    before = there(filled)
    text = output(capsys, "gc", "--root", filled)
    assert text.splitlines()[-1] == "nothing was removed; --delete does it"
    assert f"quantize/{key(3)[:8]}" in text
    assert there(filled) == before
    done = record(capsys, "gc", "--delete", "--root", filled)
    assert done["deleted"]
    assert done["bytes"] == done["bytes_by_kind"]["artifact"] > 0
    assert there(filled) == {"ingest/1", "quantize/2", "tokenize/4"}
    assert output(capsys, "gc", "--root", filled) == "would free 0 B\n"
    assert "--older-than=5: give a number and a unit" in output(
        capsys, "gc", "--older-than", "5", "--root", filled, status=2
    )


def test_the_root_is_the_presets(filled: str, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIM_ROOT", filled)
    assert len(record(capsys, "list")) == 4
    monkeypatch.setenv("VIM_ROOT", f"{filled}/none")
    assert output(capsys, "list").splitlines()[-1] == "0 artifacts, 0 B"


def test_old_work_is_listed_with_its_size(filled: str, capsys: Output) -> None:
    leave_work(filled, "prior", 9)
    then = time.time() - 8 * DAY
    os.utime(Path(filled, ".work", "prior", key(9), "spool.jsonl"), (then, then))
    removed = record(capsys, "gc", "--root", filled)["removals"]
    assert [each["bytes"] for each in removed if each["kind"] == "work"] == [len(b"unfinished")]
    assert f"work {10:>13} B  prior/{key(9)[:8]}  (it was not continued)" in output(capsys, "gc", "--root", filled)
