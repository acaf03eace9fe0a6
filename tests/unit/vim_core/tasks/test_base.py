"""Skipped updates: what the host learns of them, what is recorded, and the halt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.tiny import runtime
from vim_core.checkpoint.checkpoints import Checkpoints
from vim_core.config import TrainConfig
from vim_core.errors import NonFiniteError
from vim_core.tasks.base import NonFiniteTracker, Task
from vim_core.training.loop import train
from vim_core.training.spool import Spool, parse_rows

NAMES = ("l2", "perceptual", "loss", "gradient")


def noted(*updates: tuple[int, list[float]]) -> NonFiniteTracker:
    tracker = NonFiniteTracker()
    for step, flags in updates:
        tracker.record(step, NAMES, torch.tensor(flags))
    return tracker


def test_the_term_is_named_and_not_its_consequences() -> None:
    tracker = noted((3, [0, 0, 0, 0]), (4, [0, 1, 1, 1]), (5, [0, 0, 0, 0]), (6, [0.5, 0.5, 1, 1]))
    assert tracker.drain() == {4: ("perceptual",), 6: ("l2", "perceptual")}
    assert tracker.drain() == {}


@pytest.mark.parametrize(("flags", "terms"), [([0, 0, 0, 1], ("gradient",)), ([0, 0, 1, 1], ("loss", "gradient"))])
def test_a_consequence_without_a_cause_is_named(flags: list[float], terms: tuple[str, ...]) -> None:
    assert noted((1, flags)).drain() == {1: terms}


def test_two_updates_of_a_step_are_one_fault() -> None:
    tracker = noted((2, [1, 0, 1, 1]))
    tracker.record(2, ["discriminator.r1", "discriminator.loss"], torch.tensor([0.0, 1.0]))
    assert tracker.drain() == {2: ("l2", "discriminator.loss")}


def test_noting_reads_nothing_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("the host waits for the device here")

    tracker, flags = NonFiniteTracker(), torch.tensor([0.0, 1.0, 1.0, 1.0])
    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "numpy", "cpu", "__float__", "__bool__", "__int__"):
            patch.setattr(Tensor, name, read)
        for step in range(3):
            tracker.record(step, NAMES, flags)
    assert [*tracker.drain()] == [0, 1, 2]


class Sometimes(Task):
    """A task whose term is not finite at some steps; its samples are named after the step."""

    modules = {"m": torch.nn.Linear(1, 1)}
    optimizers: dict[str, torch.optim.Optimizer] = {}
    broken = (2, 5)

    def batch(self, step: int) -> dict[str, Tensor]:
        return {}

    def step(self, step: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        self.reached = step
        bad = torch.tensor(float(step in self.broken))
        self.nonfinite.record(step, ("term", "loss"), torch.stack([bad, bad]))
        return {"loss": torch.tensor(1.0), "skipped": bad, "other_skipped": 2 * bad}

    def sample_ids(self, step: int) -> list[str]:
        return [f"sample-{step}-{index}" for index in range(10)]

    def finish(self) -> dict[str, float]:
        return {}

    def export(self) -> dict[str, bytes]:
        return {}


def task(**fields: object) -> Sometimes:
    settings: dict[str, object] = {"steps": 9, "log_every": 4, "checkpoint_every": 100}
    return Sometimes(TrainConfig(**settings | fields), runtime())  # type: ignore[arg-type]


def rows(folder: Path, key: str) -> list[dict[str, object]]:
    return [row for row in parse_rows((folder / "spool.jsonl").read_bytes()) if key in row]


def test_skip_records_steps_terms_and_samples(tmp_path: Path) -> None:
    made = task()
    train(made, Checkpoints(str(tmp_path / "c"), {}, made.runtime), Spool(tmp_path / "spool.jsonl"))
    assert made.reached == 8
    found = rows(tmp_path, "nonfinite")
    assert [(row["step"], row["nonfinite"]) for row in found] == [(2, ["term"]), (5, ["term"])]
    assert found[1]["samples"] == made.sample_ids(5)
    sums = [(row["step"], row["m"]["skipped"], row["m"]["other_skipped"]) for row in rows(tmp_path, "m")]  # type: ignore[index]
    assert sums == [(3, 1, 2), (7, 1, 2), (8, 0, 0)]
    assert all(row["m"]["images_per_s"] > 0 for row in rows(tmp_path, "m"))  # type: ignore[index]


@pytest.mark.parametrize("spooled", [True, False])
def test_halt_stops_every_worker_at_the_log_line(tmp_path: Path, spooled: bool) -> None:
    made = task(on_nonfinite="halt")
    spool = Spool(tmp_path / "spool.jsonl") if spooled else None
    with pytest.raises(NonFiniteError, match=r"step 2: not finite: term; .* sample-2-0, .* and 2 more.*on_nonfinite"):
        train(made, Checkpoints(str(tmp_path / "c"), {}, made.runtime), spool)
    assert made.reached == 3
    if spooled:
        assert [row["step"] for row in rows(tmp_path, "nonfinite")] == [2]


def test_faults_before_a_checkpoint_are_not_lost_with_the_process(tmp_path: Path) -> None:
    made = task(steps=3, log_every=100, checkpoint_every=3)
    train(made, Checkpoints(str(tmp_path / "c"), {}, made.runtime), Spool(tmp_path / "spool.jsonl"))
    assert [row["step"] for row in rows(tmp_path, "nonfinite")] == [2]
    again = task(steps=9, log_every=100, checkpoint_every=3)
    train(again, Checkpoints(str(tmp_path / "c"), {}, again.runtime), Spool(tmp_path / "spool.jsonl"))
    assert [row["step"] for row in rows(tmp_path, "nonfinite")] == [2, 5]
