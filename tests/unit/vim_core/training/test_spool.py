"""The metrics spool: whole lines, cutting back, torn ends."""

from __future__ import annotations

from pathlib import Path

from vim_core.training.spool import Spool, parse_rows


def rows(path: Path) -> list[dict[str, object]]:
    return parse_rows(path.read_bytes())


def test_rows_and_pictures_come_back(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "deep" / "spool.jsonl")
    spool.write_note("hello")
    spool.write(4, {"loss": 0.5})
    spool.write_picture(4, "grid", b"png")
    note, row, picture = rows(spool.path)
    assert (note["step"], note["note"]) == (-1, "hello")
    assert (row["step"], row["m"]) == (4, {"loss": 0.5})
    assert picture["name"] == "grid"
    assert Path(str(picture["png"])).read_bytes() == b"png"


def test_cutting_drops_what_will_be_written_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl")
    spool.truncate(3)
    assert not spool.path.exists()
    spool.write_note("start")
    for step in range(6):
        spool.write(step, {"loss": float(step)})
    spool.truncate(4)
    assert [row["step"] for row in rows(spool.path)] == [-1, 0, 1, 2, 3]
    spool.truncate(0)
    assert [row["step"] for row in rows(spool.path)] == [-1]


def test_a_torn_line_is_left_out_and_does_not_swallow_the_next(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl")
    spool.write(0, {"loss": 1.0})
    with open(spool.path, "ab") as stream:
        stream.write(b'{"step": 1, "t": 5, "m": {"lo')
    assert [row["step"] for row in rows(spool.path)] == [0]
    again = Spool(spool.path)
    again.write_note("resumed")
    again.write(1, {"loss": 2.0})
    assert [row["step"] for row in rows(spool.path)] == [0, -1, 1]
