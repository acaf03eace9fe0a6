"""The shipper delivers every point once, over restarts, cuts and outages, and feeds the bar meanwhile."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components.tracking.link import DeliveryQueue, Link
from components.tracking.run import QueuedRun
from components.tracking.shipping import FaultLog, Shipper, SpoolDownloader, SpoolUploader, Tail, repeating
from tests.support.common import SilentProgress, SilentTracker
from tests.unit.components.tracking.conftest import Server
from vim_core.errors import StorageError
from vim_core.storage import io
from vim_core.training.spool import Spool


class Life:
    """A shipper and its queue, driven by hand: no thread runs."""

    def __init__(self, path: Path, server: Server, bar: SilentProgress | None = None) -> None:
        self.queue = DeliveryQueue(Link("memory"))
        self.shipper = Shipper(path, QueuedRun(server, self.queue), bar or SilentProgress())

    def deliver(self) -> None:
        self.shipper.read()
        while self.queue.deliver_next():
            pass


def deliver(path: Path, server: Server) -> None:
    """Upload a finished spool once, from start to close."""
    # As after a start of the process, the run knows nothing of its points.
    server._last_steps.clear()
    Life(path, server).deliver()


@pytest.fixture
def queue() -> Iterator[DeliveryQueue]:
    """A queue that delivers by itself."""
    queue = DeliveryQueue(Link("memory"), retry_s=0.01)
    queue.start()
    yield queue
    queue.close(0.0)


def steps(server: Server, name: str = "train/loss") -> list[int]:
    return [step for key, step, _ in server.points if key == name]


def test_a_cut_is_seen_even_when_the_file_has_grown_past_it(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    spool, tail = Spool(path), Tail(path)
    for step in range(4):
        spool.write(step, {"loss": 1.0})
    assert [row["step"] for row in tail.read()] == [0, 1, 2, 3]
    before = path.stat().st_size
    spool.truncate(2)
    for step in range(2, 9):
        spool.write(step, {"a_longer_name": 2.0})
    assert path.stat().st_size > before
    assert [row["step"] for row in tail.read()] == list(range(9))
    assert tail.read() == []


def test_a_line_still_being_written_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    line = json.dumps({"step": 0, "t": 1, "m": {"loss": 1.0}}).encode() + b"\n"
    tail = Tail(path)
    assert tail.read() == []
    path.write_bytes(line + line[:10])
    assert len(tail.read()) == 1
    path.write_bytes(line + line)
    assert len(tail.read()) == 1


def test_an_outage_delays_and_loses_nothing_and_the_bar_goes_on(tmp_path: Path) -> None:
    spool, server, bar = Spool(tmp_path / "spool.jsonl"), Server(), SilentProgress()
    life = Life(spool.path, server, bar)
    server.away = True
    spool.write(0, {"loss": 3.0, "images_per_s": 10.0, "lr": 0.1})
    life.deliver()
    assert (bar.done, bar.figures) == (1, {"loss": 3.0, "images_per_s": 10.0})
    spool.write(20, {"loss": 2.0, "images_per_s": 10.0, "lr": 0.1})
    life.deliver()
    assert server.points == []
    assert (bar.done, bar.figures) == (21, {"loss": 2.0, "images_per_s": 10.0})
    server.away = False
    life.deliver()
    assert steps(server) == steps(server, "train/lr") == [0, 20]


def test_rows_of_one_step_with_other_metrics_are_not_mistaken_for_delivered(tmp_path: Path) -> None:
    spool, server = Spool(tmp_path / "spool.jsonl"), Server()
    spool.write(7, {"loss": 1.0})
    deliver(spool.path, server)
    spool.write(7, {"test/loss": 2.0})
    deliver(spool.path, server)
    assert server.points == [("train/loss", 7, 1.0), ("test/loss", 7, 2.0)]


def test_the_first_picture_is_there_where_the_grid_begins(tmp_path: Path) -> None:
    spool, server = Spool(tmp_path / "spool.jsonl"), Server()
    drawn = BytesIO()
    Image.new("RGB", (64, 32)).save(drawn, "PNG")
    for step in (19, 39):
        spool.write_picture(step, "grid", drawn.getvalue())
        deliver(spool.path, server)
    assert [(name, step) for name, step, _ in server.pictures] == [("grid", 0), ("grid", 19), ("grid", 39)]
    begin = Image.open(BytesIO(server.pictures[0][2]))
    assert begin.width == 64
    assert begin.height > 32, "its own step is written below it"


def test_pictures_go_out_once_and_a_missing_file_stops_nothing(tmp_path: Path) -> None:
    spool, server = Spool(tmp_path / "spool.jsonl"), Server()
    spool.write_picture(3, "grid", b"first")
    spool.write_picture(4, "grid", b"second")
    (tmp_path / "pictures" / "grid-00000004.png").unlink()
    spool.write(5, {"loss": 1.0})
    deliver(spool.path, server)
    deliver(spool.path, server)
    assert server.pictures == [("grid", 3, b"first")]
    assert steps(server) == [5]


def faults(server: Server) -> list[tuple[int, float]]:
    return [(step, value) for name, step, value in server.points if name == "train/nonfinite_steps"]


def test_skipped_updates_are_counted_and_their_file_says_which(tmp_path: Path) -> None:
    spool, server = Spool(tmp_path / "spool.jsonl"), Server()
    for step in (3, 7):
        spool.write_nonfinite(step, ["l2"], ["a", "b"])
        spool.write(step, {"loss": 1.0})
    deliver(spool.path, server)
    assert faults(server) == [(3, 1.0), (7, 2.0)]
    ((name, content),) = server.texts
    assert name == "nonfinite.jsonl"
    rows = [json.loads(line) for line in content.splitlines()]
    assert [(row["step"], row["nonfinite"], row["samples"]) for row in rows] == [
        (3, ["l2"], ["a", "b"]),
        (7, ["l2"], ["a", "b"]),
    ]
    spool.truncate(5)
    spool.write_nonfinite(9, ["adversarial"], ["c"])
    # A new shipper of a spool that was cut: the count goes on from what is left.
    deliver(spool.path, server)
    assert faults(server) == [(3, 1.0), (7, 2.0), (9, 2.0)]
    assert [json.loads(line)["step"] for line in server.texts[-1][1].splitlines()] == [3, 9]


def test_the_file_of_skipped_updates_waits_for_its_time_but_not_at_the_end() -> None:
    now = [0.0]
    log = FaultLog(lambda: now[0])
    assert not log.due(now=True), "there is nothing to send"

    def add(step: int) -> int:
        return log.add({"step": step, "t": 5, "nonfinite": ["l2"], "samples": []})

    assert add(1) == 1
    assert log.due().count("\n") == 1
    assert add(2) == 2
    now[0] = 29.0
    assert not log.due()
    now[0] = 30.0
    assert log.due().count("\n") == 2
    assert not log.due(now=True)
    add(3)
    assert log.due(now=True).count("\n") == 3


@given(st.lists(st.integers(0, 30), max_size=30))
def test_the_count_is_that_of_the_steps_up_to_it(steps: list[int]) -> None:
    """Whatever is read again: an entry takes the place of all at its step or later."""
    log, kept = FaultLog(), list[int]()
    for step in steps:
        kept = [known for known in kept if known < step] + [step]
        assert log.add({"step": step, "t": 0, "nonfinite": [], "samples": []}) == len(kept)


def test_notes_of_this_life_are_announced_and_older_ones_are_not(tmp_path: Path) -> None:
    spool, bar = Spool(tmp_path / "spool.jsonl"), SilentProgress()
    spool.path.write_text('{"step": -1, "t": 1000, "note": "of an earlier life"}\n')
    shipper = Shipper(spool.path, SilentTracker(), bar)
    spool.write_note("resumed at step 40")
    shipper.read()
    assert bar.notes == ["resumed at step 40"]


def test_tags_of_a_note_go_to_the_run_and_outlast_an_outage(tmp_path: Path) -> None:
    spool, server = Spool(tmp_path / "spool.jsonl"), Server()
    life = Life(spool.path, server, bar := SilentProgress())
    server.away = True
    spool.write_note("low", tags={"codebook_alarm": "3 %"})
    life.deliver()
    assert (server.texts, bar.notes[-1:]) == ([], ["low"])
    server.away = False
    spool.write_note("again", tags={"codebook_alarm": ""})
    life.deliver()
    assert server.texts == [("codebook_alarm", "3 %"), ("codebook_alarm", "")]


def test_leaving_delivers_the_rest(tmp_path: Path, queue: DeliveryQueue) -> None:
    spool, server, bar = Spool(tmp_path / "spool.jsonl"), Server(), SilentProgress()
    with Shipper(spool.path, QueuedRun(server, queue), bar, poll_s=0.01):
        for step in range(200):
            spool.write(step, {"loss": 0.5})
    assert steps(server) == list(range(200))
    assert bar.done == 200
    assert not server.incomplete


def test_leaving_a_dead_server_says_what_was_not_taken(
    tmp_path: Path, queue: DeliveryQueue, caplog: pytest.LogCaptureFixture
) -> None:
    spool, server = Spool(tmp_path / "spool.jsonl"), Server()
    server.away = True
    with Shipper(spool.path, QueuedRun(server, queue), SilentProgress(), poll_s=0.01, flush_s=60.0):
        spool.write(0, {"loss": 1.0})
        spool.write(1, {"loss": 1.0})
    assert len(caplog.records) == 1
    assert "did not take 2 entries" in caplog.text
    assert str(spool.path) in caplog.text
    assert server.incomplete


def test_figures_come_in_groups_and_late_evaluations_do_not_move_the_bar_back(tmp_path: Path) -> None:
    spool, server, bar = Spool(tmp_path / "spool.jsonl"), Server(), SilentProgress()
    spool.write(9, {"loss": 1.0, "images_per_s": 5.0, "system/mfu": 0.4})
    spool.write(4, {"eval/psnr_db": 20.0})
    Life(spool.path, server, bar).deliver()
    assert server.points == [
        ("train/loss", 9, 1.0), ("system/images_per_s", 9, 5.0), ("system/mfu", 9, 0.4), ("eval/psnr_db", 4, 20.0),
    ]  # fmt: skip
    assert (bar.done, bar.figures) == (10, {"loss": 1.0, "images_per_s": 5.0})


EVENTS = st.lists(st.sampled_from(["write", "deliver", "cut", "restart", "down", "up"]), max_size=40)


@given(EVENTS)
def test_whatever_happens_every_step_arrives_exactly_once(tmp_path_factory: Any, events: list[str]) -> None:
    spool, server = Spool(tmp_path_factory.mktemp("spool") / "spool.jsonl"), Server()
    spool.path.touch()
    life, step, highest = Life(spool.path, server), 0, 0
    for event in [*events, "up", "deliver"]:
        if event == "write":
            spool.write(step, {"loss": float(step)})
            step += 1
            highest = max(highest, step)
        elif event == "cut":
            step = step // 2
            spool.truncate(step)
        elif event == "restart":
            server._last_steps.clear()
            life = Life(spool.path, server)
        elif event == "deliver":
            life.deliver()
        else:
            server.away = event == "down"
    arrived = steps(server)
    assert arrived == sorted(set(arrived))
    assert set(range(step)) <= set(arrived) <= set(range(highest))


def mirrored(folder: Path, remote: str) -> tuple[Spool, SpoolUploader]:
    """A spool of two steps and a picture on one machine, sent."""
    spool = Spool(folder / "spool.jsonl")
    mirror = SpoolUploader(remote, spool.path)
    spool.write(0, {"loss": 2.0})
    spool.write_picture(0, "grid", b"first")
    spool.write(1, {"loss": 1.0})
    mirror.send()
    return spool, mirror


def test_another_machine_continues_where_the_first_one_was(remote: str, tmp_path: Path) -> None:
    first, _ = mirrored(tmp_path / "first", remote)
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
    spool, mirror = mirrored(tmp_path / "worker", remote)
    follower, tracker = SpoolDownloader(remote, tmp_path / "driver" / "spool.jsonl"), SilentTracker()
    follower.fetch()
    for path in (tmp_path / "worker" / "pictures").iterdir():
        path.unlink()

    def shipped() -> list[int]:
        with Shipper(tmp_path / "driver" / "spool.jsonl", tracker, SilentProgress()):
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
    _, mirror = mirrored(tmp_path / "worker", remote)
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
