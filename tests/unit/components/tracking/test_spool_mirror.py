"""A spool in a bucket: what one machine wrote, another continues and a third one follows."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from components.tracking.shipping import Shipper
from components.tracking.spool_mirror import SpoolDownloader, SpoolUploader, repeating
from tests.support.common import SilentProgress, SilentTracker
from vim_core.errors import StorageError
from vim_core.storage import io
from vim_core.training.spool import Spool


def written(folder: Path, remote: str) -> tuple[Spool, SpoolUploader]:
    """A spool of two steps and a picture on one machine, sent."""
    spool = Spool(folder / "spool.jsonl")
    mirror = SpoolUploader(remote, spool.path)
    spool.write(0, {"loss": 2.0})
    spool.write_picture(0, "grid", b"first")
    spool.write(1, {"loss": 1.0})
    mirror.send()
    return spool, mirror


def test_another_machine_continues_where_the_first_one_was(remote: str, tmp_path: Path) -> None:
    first, _ = written(tmp_path / "first", remote)
    there = tmp_path / "second" / "spool.jsonl"
    mirror = SpoolUploader(remote, there)
    mirror.fetch()
    rows = Spool(there).rows()
    assert [row["step"] for row in rows] == [0, 0, 1]
    assert rows[0::2] == first.rows()[0::2]
    assert Path(rows[1]["png"]) == tmp_path / "second" / "pictures" / "grid-00000000.png"
    assert Path(rows[1]["png"]).read_bytes() == b"first"


def test_a_new_training_begins_with_nothing(remote: str, tmp_path: Path) -> None:
    """The machine may have had one of the same folder before."""
    old = Spool(tmp_path / "spool.jsonl")
    old.write(5, {"loss": 9.0})
    old.write_picture(5, "grid", b"old")
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver" / "shipped-pictures.txt").write_text("5 grid\n")
    SpoolUploader(remote, old.path).fetch()
    assert old.rows() == []
    assert not (tmp_path / "pictures").exists()
    SpoolDownloader(remote, tmp_path / "driver" / "spool.jsonl")
    assert not (tmp_path / "driver").exists()


def test_a_driver_elsewhere_delivers_figures_and_pictures(remote: str, tmp_path: Path) -> None:
    spool, mirror = written(tmp_path / "worker", remote)
    follower, tracker = SpoolDownloader(remote, tmp_path / "driver" / "spool.jsonl"), SilentTracker()
    follower.fetch()
    for path in (tmp_path / "worker" / "pictures").iterdir():
        path.unlink()

    def shipped() -> list[int]:
        with Shipper(str(tmp_path / "driver" / "spool.jsonl"), tracker, SilentProgress()):
            pass
        return [row.step for row in tracker.logged]

    assert shipped() == [0, 1]
    assert tracker.pictures == {"grid": b"first"}
    spool.truncate(1)
    spool.write(1, {"loss": 1.0})
    spool.write(2, {"loss": 0.5})
    mirror.send()
    follower.fetch()
    assert shipped() == [0, 1, 2]


def test_nothing_is_copied_twice(remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, mirror = written(tmp_path / "worker", remote)
    follower = SpoolDownloader(remote, tmp_path / "driver" / "spool.jsonl")
    follower.fetch()
    for name in ("read_bytes", "write_bytes"):
        monkeypatch.setattr(io, name, lambda *_: pytest.fail("copied again"))
    mirror.send()
    follower.fetch()


def test_copying_goes_on_when_the_store_was_away_and_ends_with_the_last_state() -> None:
    calls, failed = list[int](), threading.Event()

    def act() -> None:
        calls.append(len(calls))
        if len(calls) == 2:
            failed.set()
            raise StorageError("away")

    with repeating(act, every_s=0.001):
        assert failed.wait(30)
    assert calls[-1] >= 2


def test_what_lies_on_a_disk_for_a_bucket_has_a_place_of_its_own(tmp_path: Path) -> None:
    assert io.scratch(str(tmp_path)) == tmp_path
    one, other = io.scratch("gs://a/.work/prior/f1"), io.scratch("gs://b/.work/prior/f1")
    assert one != other
    assert one == io.scratch("gs://a/.work/prior/f1")
