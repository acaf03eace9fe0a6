"""Checkpoints: bit-equal round trips, damage, other trainings, and which are kept."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.tiny import InMemory, assert_equal_bits, runtime
from vim_core.checkpoint.checkpoints import Checkpoints
from vim_core.checkpoint.shard_files import SavedCheckpoint
from vim_core.checkpoint.state_dict import flat_state_dict, restore
from vim_core.config import OptimConfig
from vim_core.errors import ConfigError, ResumeError, StorageError
from vim_core.optim.optimizers import make_optimizer
from vim_core.storage import io, tensor_files

Parts = tuple[dict[str, nn.Module], dict[str, torch.optim.Optimizer]]
IDENTITY = {"component": "toy", "fingerprint": "f" * 20}


class Training:
    """A network with buffers and its AdamW."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.optimizer = make_optimizer(self.net, OptimConfig(lr=1e-2))
        self.parts: Parts = ({"net": self.net}, {"net": self.optimizer})

    def step(self, seed: int) -> None:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
        self.optimizer.zero_grad()
        self.net(x).square().mean().backward()
        self.optimizer.step()

    def state(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in flat_state_dict(*self.parts).items()}


def trained(steps: int) -> Training:
    training = Training(0)
    for step in range(steps):
        training.step(step)
    return training


def made(folder: str | Path, **fields: Any) -> Checkpoints:
    return Checkpoints(str(folder), fields.pop("identity", IDENTITY), runtime(), **fields)


def saved(folder: str | Path, *steps: int, **fields: Any) -> Checkpoints:
    """A folder in which the states after these steps were saved."""
    checkpoints = made(folder, **fields)
    for step in steps:
        checkpoints.save(step, flat_state_dict(*trained(min(step, 3)).parts))
    assert checkpoints.wait()
    return checkpoints


def tensors(found: SavedCheckpoint | None) -> dict[str, Tensor]:
    assert found is not None
    return {name: found.rows(name) for name in found.names()}


def steps_in(folder: str | Path) -> list[str]:
    return [path.split("/")[0] for path in io.find_files(str(folder)) if path.endswith("/index.json")]


def test_round_trip_continues_bit_equal(anywhere: str) -> None:
    assert made(anywhere).latest() is None, "nothing there is a start"
    whole, checkpoints = trained(3), saved(anywhere, 3)
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 3
    resumed = Training(99)
    restore(found, *resumed.parts)
    assert_equal_bits(resumed.state(), whole.state())
    for step in (3, 4):
        whole.step(step)
        resumed.step(step)
    assert_equal_bits(resumed.state(), whole.state())
    assert float(resumed.state()["optimizer/net/net/0.weight/step"]) == 5


def test_state_before_the_first_step_is_restored_too() -> None:
    first, second = Training(0), Training(1)
    second.step(5)
    restore(InMemory(first.state()), *second.parts)
    first.step(0)
    second.step(0)
    assert_equal_bits(first.state(), second.state())


def changed(name: str, value: Tensor | None) -> dict[str, Tensor]:
    state = trained(1).state() | ({} if value is None else {name: value})
    if value is None:
        del state[name]
    return state


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("module/net/0.bias", None),
        ("module/net/9.bias", torch.zeros(4)),
        ("module/net/0.bias", torch.zeros(5)),
        ("module/net/0.bias", torch.zeros(4, dtype=torch.float64)),
        ("optimizer/net/net/9.weight/step", torch.zeros(())),
        ("optimizer/other/net/0.weight/step", torch.zeros(())),
    ],
)
def test_a_state_of_another_shape_is_refused(name: str, value: Tensor | None) -> None:
    with pytest.raises(ResumeError, match=name.removesuffix("/step").replace(".", r"\.")):
        restore(InMemory(changed(name, value)), *Training(1).parts)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "gone", "index", "format", "all"])
def test_a_damaged_newest_is_passed_over(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    newest, index = f"{tmp_path}/step-00000002", f"{tmp_path}/step-00000002/index.json"
    (shard,) = [f"{newest}/{name}" for name in io.list_names(newest) if name.endswith(".safetensors")]
    content = io.read_bytes(shard)
    if damage in ("cut", "empty", "flipped"):
        flipped = content[:-1] + bytes([content[-1] ^ 1])
        io.write_bytes(shard, {"cut": content[:-9], "empty": b"", "flipped": flipped}[damage])
    elif damage == "index":
        io.write_bytes(index, io.read_bytes(index)[:-5])
    elif damage == "format":
        io.write_bytes(index, json.dumps(json.loads(io.read_bytes(index)) | {"format": 99}).encode())
    else:
        io.remove_tree(shard)
    if damage == "all":
        io.write_bytes(f"{tmp_path}/step-00000001/index.json", b"")
        assert checkpoints.latest() is None
        return
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 1
    assert_equal_bits(tensors(found), trained(1).state())
    assert "step-00000002 is damaged" in caplog.text


def test_another_training_is_refused_with_its_name(anywhere: str) -> None:
    saved(anywhere, 1)
    other = made(anywhere, identity={**IDENTITY, "fingerprint": "e" * 20})
    with pytest.raises(ResumeError, match=r"step-00000001 belongs to .*ffff.* not to .*eeee"):
        other.latest()


def test_only_the_newest_are_kept_and_nothing_else_is_touched(anywhere: str) -> None:
    io.write_bytes(f"{anywhere}/notes.txt", b"mine")
    io.write_bytes(f"{anywhere}/step-by-step.txt", b"mine as well")
    io.write_bytes(f"{anywhere}/step-00000003/w-00000-of-00001.safetensors", b"a writer died here")
    checkpoints = saved(anywhere, 2, 4, 10, 100, keep=2)
    assert steps_in(anywhere) == ["step-00000010", "step-00000100"]
    # Half a checkpoint of the past is removed.
    assert io.list_names(anywhere) == ["notes.txt", "step-00000010", "step-00000100", "step-by-step.txt"]
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 100


def test_a_late_evaluation_counts_at_once(anywhere: str) -> None:
    checkpoints = saved(anywhere, 2, 4, best="max psnr")
    for step, psnr in ((2, 3.0), (4, 2.0)):
        checkpoints.record_evaluation(step, {"psnr": psnr})
        assert json.loads(io.read_bytes(f"{anywhere}/best.json"))["step"] == 2


@pytest.mark.parametrize(("best", "expected"), [("max psnr", 2), ("min psnr", 6)])
def test_the_best_is_kept_beside_the_newest(anywhere: str, best: str, expected: int) -> None:
    checkpoints = made(anywhere, keep=1, best=best)
    for step, psnr in {2: 9.0, 4: 7.0, 6: 5.0, 8: 6.0}.items():
        checkpoints.record_evaluation(step, {"psnr": psnr, "other": 0.0})
        checkpoints.save(step, trained(1).state())
    checkpoints.wait()
    assert steps_in(anywhere) == [f"step-{expected:08d}", "step-00000008"]
    assert json.loads(io.read_bytes(f"{anywhere}/best.json"))["step"] == expected
    # A restart knows it, and an evaluation of a step without checkpoint changes nothing.
    again = made(anywhere, keep=1, best=best)
    again.record_evaluation(9, {"psnr": 100.0 if best.startswith("max") else 0.0})
    again.save(10, trained(1).state())
    again.wait()
    assert steps_in(anywhere) == [f"step-{expected:08d}", "step-00000010"]


def test_an_evaluation_without_the_figure_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="best='max psnr': the evaluation has no such figure, but loss"):
        made(tmp_path, best="max psnr").record_evaluation(1, {"loss": 1.0})


def test_training_goes_on_while_the_state_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may, write = threading.Event(), tensor_files.write_tensors

    def slow(*arguments: Any) -> Any:
        may.wait(20)
        return write(*arguments)

    monkeypatch.setattr(tensor_files, "write_tensors", slow)
    checkpoints, training = made(tmp_path), trained(2)
    before = training.state()
    checkpoints.save(2, flat_state_dict(*training.parts))
    assert steps_in(tmp_path) == [], "the write is held up, `save` is not"
    training.step(2)
    may.set()
    assert checkpoints.wait()
    assert_equal_bits(tensors(checkpoints.latest()), before)


class Died(BaseException):
    """Stands for kill -9 in the middle of a write."""


@pytest.mark.parametrize("where", ["shard", "index"])
def test_an_unfinished_write_is_never_read(anywhere: str, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    saved(anywhere, 1)
    checkpoints, write, open_write = made(anywhere), io.write_bytes, io.open_write

    def dying(uri: str, data: bytes) -> None:
        if uri.endswith("index.json"):
            write(uri.replace("index.json", ".index.json.half"), data[:20])
            raise Died
        write(uri, data)

    @contextlib.contextmanager
    def half(uri: str) -> Iterator[Any]:
        with open_write(uri) as stream:
            stream.write(b"half")
            raise Died
        yield stream

    with monkeypatch.context() as patch:
        if where == "shard":
            patch.setattr(io, "open_write", half)
        else:
            patch.setattr(io, "write_bytes", dying)
        checkpoints.save(2, trained(2).state())
        checkpoints._pool.shutdown()
    found = made(anywhere).latest()
    assert found is not None
    assert found.step == 1
    left = [name for name in io.find_files(anywhere) if name.startswith("step-00000002/")]
    assert "step-00000002/index.json" not in left
    assert len(left) == {"shard": 0, "index": 2}[where]


def test_what_must_not_lie_behind_a_checkpoint_is_done_before_it_counts(anywhere: str) -> None:
    seen: list[list[str]] = []
    saved(anywhere, 1, 2, before_commit=lambda: seen.append(steps_in(anywhere)))
    assert seen == [[], ["step-00000001"]]

    def failing() -> None:
        raise StorageError("away")

    checkpoints = made(anywhere, before_commit=failing, note=lambda text: None)
    checkpoints.save(3, trained(3).state())
    assert not checkpoints.wait()
    assert steps_in(anywhere) == ["step-00000001", "step-00000002"]


def test_a_bucket_that_is_gone_costs_checkpoints_and_is_said(gcs: str) -> None:
    said: list[str] = []
    checkpoints = made("gs://nowhere/work", note=said.append)
    checkpoints.save(1, trained(1).state())
    assert not checkpoints.wait()
    assert "there is no bucket gs://nowhere" in said[0]
    assert "training continues" in said[0]


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process can grow: the system refuses, as a full disk does. Not longer than needed: pytest's own
    output may be a file, too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_a_checkpoint_and_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    checkpoints = made(tmp_path, note=said.append)
    checkpoints.save(1, trained(1).state())
    assert checkpoints.wait()
    with full_disk():
        checkpoints.save(2, trained(2).state())
        assert not checkpoints.wait()
    assert len(said) == 1
    assert "checkpoint of step 2 not written to" in said[0]
    assert str(tmp_path / "step-00000002") in said[0]
    assert os.strerror(27) in said[0]
    assert not list(tmp_path.glob("step-00000002/*.safetensors")), "the room is given back"
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 1
    checkpoints.save(3, trained(3).state())
    assert checkpoints.wait()
    assert_equal_bits(tensors(checkpoints.latest()), trained(3).state())
    assert len(said) == 1


def test_a_full_disk_stops_the_training_where_that_was_asked_for(tmp_path: Path) -> None:
    checkpoints = made(tmp_path, strict=True)
    with full_disk():
        checkpoints.save(2, trained(2).state())
        with pytest.raises(StorageError, match=r"checkpoint of step 2 not written to .*checkpoint_errors=warn"):
            checkpoints.wait()
