"""The training loop: a killed and resumed training equals an uninterrupted one bit for bit (contract 4)."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from tests.support.tiny import (
    Killed,
    Make,
    assert_equal_bits,
    killed_at,
    runtime,
    state_of,
)
from vim_core.checkpoint.checkpoints import Checkpoints
from vim_core.tasks.base import Task
from vim_core.training.interruptions import Preempted, Preemption, PreemptionMonitor
from vim_core.training.loop import train
from vim_core.training.spool import Spool, parse_rows

STEPS = 6
NONE, SAVE, STOP = Preemption


def checkpoints(folder: Path) -> Checkpoints:
    return Checkpoints(str(folder / "checkpoints"), {"fingerprint": "f"}, runtime())


def exported(task: Task) -> dict[str, Tensor]:
    """The weights that would be published, whatever the checkpoints hold."""
    return {f"export/{name}": value for name, value in load(task.export()["model.safetensors"]).items()}


def finished(task: Task, folder: Path, workers: int = 0) -> dict[str, Tensor]:
    train(task, checkpoints(folder), Spool(folder / "spool.jsonl"), workers)
    return state_of(task) | exported(task)


def interrupted(make: Make, precision: str, folder: Path, kills: list[int]) -> dict[str, Tensor]:
    for step in kills:
        with pytest.raises(Killed):
            finished(killed_at(make(precision=precision), step), folder)
        torch.manual_seed(step)  # whatever the dead process left in the generator
    return finished(make(precision=precision), folder)


@pytest.fixture(scope="module")
def whole(makers: dict[str, Make], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The end of an uninterrupted training of the quantizer."""
    return finished(makers["quantizer"](), tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(("name", "precision"), [("quantizer", "fp32"), ("prior", "bf16"), ("classifier", "fp32")])
def test_resumed_equals_uninterrupted_and_each_step_is_spooled_once(
    makers: dict[str, Make], name: str, precision: str, tmp_path: Path
) -> None:
    uninterrupted = finished(makers[name](precision=precision), tmp_path / "whole")
    start = state_of(makers[name](precision=precision))
    assert any(not torch.equal(a, b) for a, b in zip(uninterrupted.values(), start.values(), strict=False))
    assert_equal_bits(interrupted(makers[name], precision, tmp_path, [1, 3]), uninterrupted)
    rows = parse_rows((tmp_path / "spool.jsonl").read_bytes())
    figures = [row for row in rows if "m" in row]
    assert [row["step"] for row in figures] == list(range(STEPS))
    pictures = Counter((row["name"], row["step"]) for row in rows if "png" in row)
    assert set(pictures.values()) <= {1}
    assert (name == "quantizer") == bool(pictures)
    for row in figures:
        assert {"loss", "skipped", "images_per_s"} <= row["m"].keys()
        assert row["m"]["skipped"] == 0


def test_other_data_workers_give_the_same_bits(
    makers: dict[str, Make], whole: dict[str, Tensor], tmp_path: Path
) -> None:
    assert_equal_bits(finished(makers["quantizer"](), tmp_path, workers=1), whole)


def test_a_finished_training_is_not_stepped_again(makers: dict[str, Make], tmp_path: Path) -> None:
    ended = finished(makers["prior"](evaluate_every=2), tmp_path)
    rows = Spool(tmp_path / "spool.jsonl").rows()
    again = killed_at(makers["prior"](evaluate_every=2), 0)
    assert train(again, checkpoints(tmp_path), Spool(tmp_path / "spool.jsonl")) == STEPS
    assert_equal_bits(state_of(again) | exported(again), ended)
    assert Spool(tmp_path / "spool.jsonl").rows() == rows


def test_a_notice_makes_a_checkpoint_between_the_planned_ones(
    makers: dict[str, Make], whole: dict[str, Tensor], tmp_path: Path
) -> None:
    notices = iter([NONE, NONE, SAVE, SAVE, NONE, NONE])
    task = killed_at(makers["quantizer"](), 3)
    monitor = PreemptionMonitor(runtime(), [lambda: next(notices)])
    with pytest.raises(Killed):
        train(task, checkpoints(tmp_path), Spool(tmp_path / "spool.jsonl"), preemption=monitor)
    found = checkpoints(tmp_path).latest()
    assert found is not None
    assert found.step == 3
    assert_equal_bits(finished(makers["quantizer"](), tmp_path), whole)


def test_told_to_stop_training_leaves_with_a_checkpoint(
    makers: dict[str, Make], whole: dict[str, Tensor], tmp_path: Path
) -> None:
    notices = iter([NONE, STOP])
    monitor = PreemptionMonitor(runtime(), [lambda: next(notices)], every=2)
    with pytest.raises(Preempted, match="checkpoint of step 4 written below"):
        train(makers["quantizer"](), checkpoints(tmp_path), Spool(tmp_path / "spool.jsonl"), preemption=monitor)
    assert_equal_bits(finished(makers["quantizer"](), tmp_path), whole)


def test_a_disk_full_for_a_while_costs_no_bit_and_no_step(
    makers: dict[str, Make], whole: dict[str, Tensor], tmp_path: Path
) -> None:
    task, before = makers["quantizer"](), resource.getrlimit(resource.RLIMIT_FSIZE)
    own: Callable[..., dict[str, Tensor]] = task.step

    def filling(step: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        # No file of this process grows beyond this size: the system refuses, as a full disk does.
        if step in (3, 5):
            saving.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (300 if step == 3 else before[0], before[1]))
        return own(step, batch)

    task.step = filling  # type: ignore[method-assign]
    spool = Spool(tmp_path / "spool.jsonl")
    saving = Checkpoints(str(tmp_path / "checkpoints"), {"fingerprint": "f"}, runtime(), keep=9, note=spool.write_note)
    try:
        train(task, saving, spool)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    rows = parse_rows((tmp_path / "spool.jsonl").read_bytes())
    assert [row["step"] for row in rows if "m" in row] == list(range(STEPS))
    assert ["step-00000004" in row["note"] for row in rows if "note" in row and "summary" not in row] == [True]
    kept = sorted(path.parent.name for path in (tmp_path / "checkpoints").glob("step-*/index.json"))
    assert kept == ["step-00000002", "step-00000006"]
    assert_equal_bits(state_of(task) | exported(task), whole)


def test_a_saving_notice_is_obeyed_once() -> None:
    notices = iter([NONE, SAVE, SAVE, NONE, SAVE, STOP])
    monitor = PreemptionMonitor(runtime(), [lambda: next(notices), lambda: NONE])
    assert [monitor.poll(done) for done in range(1, 7)] == [NONE, SAVE, NONE, NONE, SAVE, STOP]
