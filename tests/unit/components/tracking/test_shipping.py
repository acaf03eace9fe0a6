"""The shipper delivers every point once, over restarts, cuts and outages, and feeds the bar meanwhile."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.contract.api import Row
from components.tracking.fault_log import FaultLog
from components.tracking.shipping import Ledger, Outbox, Shipper, Tail
from vim_core.training.spool import Spool


class Server:
    """A tracker that keeps points; while `away` it answers nothing."""

    def __init__(self) -> None:
        self.points: list[tuple[str, int, float]] = []
        self.pictures: list[tuple[str, int | None, bytes]] = []
        self.texts: list[tuple[str, str]] = []
        self.away = False
        self.missing = 0
        self.run_id = "run"

    def rows(self, rows: Sequence[Row]) -> bool:
        if self.away:
            return False
        self.points += [(name, row.step, value) for row in rows for name, value in row.values.items()]
        return True

    def metrics(self, step: int, values: Mapping[str, float], timestamp_ms: int | None = None) -> bool:
        return self.rows([Row(step, timestamp_ms or 0, dict(values))])

    def image(self, name: str, png: bytes, step: int | None = None) -> bool:
        if self.away:
            return False
        self.pictures.append((name, step, png))
        return True

    def text(self, name: str, content: str) -> bool:
        if self.away:
            return False
        self.texts.append((name, content))
        return True

    def last_step(self, key: str) -> int | None:
        return None if self.away else max((step for name, step, _ in self.points if name == key), default=-1)

    def left(self, entries: int) -> None:
        self.missing = entries


class Bar:
    def __init__(self) -> None:
        self.total = 0
        self.seen: list[tuple[int, dict[str, float]]] = []
        self.notes: list[str] = []

    def start(self, total: int, unit: str) -> None:
        self.total = total

    def advance(self, done: int, **figures: float) -> None:
        self.seen.append((done, figures))

    def note(self, text: str) -> None:
        self.notes.append(text)


def life(path: Path, server: Server, bar: Bar | None = None) -> Shipper:
    """A shipper driven by hand: no thread runs."""
    return Shipper(str(path), server, bar or Bar(), flush_s=0.05)


def deliver(shipper: Shipper) -> None:
    shipper.show()
    while shipper.ship():
        pass


def steps(server: Server, name: str = "train/loss") -> list[int]:
    return [step for key, step, _ in server.points if key == name]


def test_points_arrive_once_and_in_order_over_a_restart_of_the_shipper(tmp_path: Path) -> None:
    spool, server = Spool(tmp_path / "spool.jsonl"), Server()
    for step in range(5):
        spool.write(step, {"loss": float(step)})
    deliver(life(spool.path, server))
    spool.write(5, {"loss": 5.0})
    deliver(life(spool.path, server))
    assert server.points == [("train/loss", step, float(step)) for step in range(6)]


def test_a_spool_cut_back_and_written_again_doubles_nothing(tmp_path: Path) -> None:
    spool, server = Spool(tmp_path / "spool.jsonl"), Server()
    shipper = life(spool.path, server)
    for step in range(8):
        spool.write(step, {"loss": 1.0})
    deliver(shipper)
    spool.truncate(3)
    for step in range(3, 12):
        spool.write(step, {"loss": 1.0})
    deliver(shipper)
    assert steps(server) == list(range(12))


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
    spool, server, bar = Spool(tmp_path / "spool.jsonl"), Server(), Bar()
    shipper = life(spool.path, server, bar)
    server.away = True
    spool.write(0, {"loss": 3.0, "images_per_s": 10.0, "lr": 0.1})
    deliver(shipper)
    spool.write(20, {"loss": 2.0, "images_per_s": 10.0, "lr": 0.1})
    deliver(shipper)
    assert server.points == []
    assert bar.seen == [(1, {"loss": 3.0, "images_per_s": 10.0}), (21, {"loss": 2.0, "images_per_s": 10.0})]
    assert shipper.waiting == 2
    server.away = False
    deliver(shipper)
    assert steps(server) == steps(server, "train/lr") == [0, 20]
    assert shipper.waiting == 0


def test_rows_of_one_step_with_other_metrics_are_not_mistaken_for_delivered(tmp_path: Path) -> None:
    spool, server = Spool(tmp_path / "spool.jsonl"), Server()
    spool.write(7, {"loss": 1.0})
    deliver(life(spool.path, server))
    spool.write(7, {"test/loss": 2.0})
    deliver(life(spool.path, server))
    assert server.points == [("train/loss", 7, 1.0), ("test/loss", 7, 2.0)]


def test_pictures_go_out_once_and_a_missing_file_stops_nothing(tmp_path: Path) -> None:
    spool, server = Spool(tmp_path / "spool.jsonl"), Server()
    spool.write_picture(3, "grid", b"first")
    spool.write_picture(4, "grid", b"second")
    (tmp_path / "pictures" / "grid-00000004.png").unlink()
    spool.write(5, {"loss": 1.0})
    deliver(life(spool.path, server))
    deliver(life(spool.path, server))
    assert server.pictures == [("grid", 3, b"first")]
    assert steps(server) == [5]


def faults(server: Server) -> list[tuple[int, float]]:
    return [(step, value) for name, step, value in server.points if name == "train/nonfinite_steps"]


def test_skipped_updates_are_counted_and_their_file_says_which(tmp_path: Path) -> None:
    spool, server = Spool(tmp_path / "spool.jsonl"), Server()
    for step in (3, 7):
        spool.write_nonfinite(step, ["l2"], ["a", "b"])
        spool.write(step, {"loss": 1.0})
    deliver(life(spool.path, server))
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
    deliver(life(spool.path, server))
    assert faults(server) == [(3, 1.0), (7, 2.0), (9, 2.0)]
    assert [json.loads(line)["step"] for line in server.texts[-1][1].splitlines()] == [3, 9]


def test_the_file_of_skipped_updates_waits_for_its_time_but_not_at_the_end() -> None:
    server, now = Server(), [0.0]
    log = FaultLog(server, every_s=30.0, clock=lambda: now[0])
    assert not log.deliver(now=True), "nothing is nothing to send"

    def row(step: int) -> dict[str, Any]:
        return log.add({"step": step, "t": 5, "nonfinite": ["l2"], "samples": []})

    row(1)
    assert log.deliver()
    assert row(2) == {"step": 2, "t": 5, "m": {"train/nonfinite_steps": 2.0}}
    now[0] = 29.0
    assert not log.deliver()
    now[0] = 30.0
    assert log.deliver()
    row(3)
    assert log.waiting
    assert log.deliver(now=True)
    assert not log.waiting
    row(4)
    server.away = True
    assert not log.deliver(now=True)
    assert log.waiting
    assert [text.count("\n") for _, text in server.texts] == [1, 2, 3]


@given(st.lists(st.integers(0, 30), max_size=30))
def test_the_count_is_that_of_the_steps_up_to_it(steps: list[int]) -> None:
    """Whatever is read again: an entry takes the place of all at its step or later."""
    log, kept = FaultLog(Server()), list[int]()
    for step in steps:
        kept = [known for known in kept if known < step] + [step]
        assert log.add({"step": step, "t": 0, "nonfinite": [], "samples": []})["m"] == {
            "train/nonfinite_steps": float(len(kept))
        }


def test_notes_of_this_life_are_announced_and_older_ones_are_not(tmp_path: Path) -> None:
    spool, bar = Spool(tmp_path / "spool.jsonl"), Bar()
    spool.path.write_text('{"step": -1, "t": 1000, "note": "of an earlier life"}\n')
    shipper = Shipper(str(spool.path), Server(), bar, announce=lambda row: row.get("note"))
    spool.write_note("resumed at step 40")
    deliver(shipper)
    assert bar.notes == ["resumed at step 40"]


def test_leaving_delivers_the_rest(tmp_path: Path) -> None:
    spool, server, bar = Spool(tmp_path / "spool.jsonl"), Server(), Bar()
    with Shipper(str(spool.path), server, bar, 200, poll_s=0.01) as shipper:
        for step in range(200):
            spool.write(step, {"loss": 0.5})
    assert steps(server) == list(range(200))
    assert bar.total == 200
    assert bar.seen[-1][0] == 200
    assert shipper.waiting == 0


def test_leaving_a_dead_server_says_what_was_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool, server = Spool(tmp_path / "spool.jsonl"), Server()
    server.away = True
    with Shipper(str(spool.path), server, Bar(), poll_s=0.01, flush_s=0.2):
        spool.write(0, {"loss": 1.0})
        spool.write(1, {"loss": 1.0})
    assert len(caplog.records) == 1
    assert "did not take 2 entries" in caplog.text
    assert server.missing == 2
    assert str(spool.path) in caplog.text


def test_figures_come_in_groups_and_late_evaluations_do_not_move_the_bar_back(tmp_path: Path) -> None:
    spool, server, bar = Spool(tmp_path / "spool.jsonl"), Server(), Bar()
    spool.write(9, {"loss": 1.0, "images_per_s": 5.0, "system/mfu": 0.4})
    spool.write(4, {"eval/psnr_db": 20.0})
    deliver(life(spool.path, server, bar))
    assert server.points == [
        ("train/loss", 9, 1.0), ("system/images_per_s", 9, 5.0), ("system/mfu", 9, 0.4), ("eval/psnr_db", 4, 20.0),
    ]  # fmt: skip
    assert bar.seen == [(10, {"loss": 1.0, "images_per_s": 5.0})]


EVENTS = st.lists(st.sampled_from(["write", "deliver", "cut", "restart", "down", "up"]), max_size=40)


@given(EVENTS)
def test_whatever_happens_every_step_arrives_exactly_once(tmp_path_factory: Any, events: list[str]) -> None:
    spool, server = Spool(tmp_path_factory.mktemp("spool") / "spool.jsonl"), Server()
    spool.path.touch()
    shipper, step, highest = life(spool.path, server), 0, 0
    for event in [*events, "up", "deliver"]:
        if event == "write":
            spool.write(step, {"loss": float(step)})
            step += 1
            highest = max(highest, step)
        elif event == "cut":
            step = step // 2
            spool.truncate(step)
        elif event == "restart":
            shipper = life(spool.path, server)
        elif event == "deliver":
            deliver(shipper)
        else:
            server.away = event == "down"
    arrived = steps(server)
    assert len(set(arrived)) == len(arrived)
    assert set(range(step)) <= set(arrived) <= set(range(highest))


def test_a_full_batch_is_one_request(tmp_path: Path) -> None:
    server, calls = Server(), []
    take = server.rows
    server.rows = lambda rows: calls.append(len(rows)) or take(rows)  # type: ignore[method-assign,func-returns-value]
    outbox = Outbox(server, Ledger(server))
    outbox.add([{"step": step, "t": 0, "m": {"loss": 1.0}} for step in range(120)])
    while len(outbox):
        assert outbox.deliver()
    assert calls == [50, 50, 20]
