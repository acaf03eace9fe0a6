"""Checkpoints: bit-equal round trips, damage, other trainings, and how many are kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.unit.vim_core.tiny import assert_equal_bits
from vim_core.checkpoint import Checkpoints, flatten, restore
from vim_core.config import OptimConfig
from vim_core.errors import ResumeError
from vim_core.optim import adamw

Parts = tuple[dict[str, nn.Module], dict[str, torch.optim.Optimizer]]
IDENTITY = {"component": "toy", "fingerprint": "f" * 20}


class Training:
    """A network with buffers and its AdamW."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.optimizer = adamw(self.net, OptimConfig(lr=1e-2))
        self.parts: Parts = ({"net": self.net}, {"net": self.optimizer})

    def step(self, seed: int) -> None:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
        self.optimizer.zero_grad()
        self.net(x).square().mean().backward()
        self.optimizer.step()

    def state(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in flatten(*self.parts).items()}


def trained(steps: int) -> Training:
    training = Training(0)
    for step in range(steps):
        training.step(step)
    return training


def test_round_trip_continues_bit_equal(tmp_path: Path) -> None:
    whole, checkpoints = trained(3), Checkpoints(str(tmp_path), IDENTITY)
    checkpoints.save(3, flatten(*whole.parts))
    found = checkpoints.latest()
    assert found is not None
    assert found[0] == 3
    resumed = Training(99)
    restore(found[1], *resumed.parts)
    assert_equal_bits(resumed.state(), whole.state())
    for step in (3, 4):
        whole.step(step)
        resumed.step(step)
    assert_equal_bits(resumed.state(), whole.state())
    assert float(resumed.state()["optimizer/net/0/step"]) == 5


def test_state_before_the_first_step_is_restored_too() -> None:
    first, second = Training(0), Training(1)
    restore(first.state(), *second.parts)
    first.step(0)
    second.step(0)
    assert_equal_bits(first.state(), second.state())


def test_a_state_of_another_shape_is_refused() -> None:
    state = Training(0).state()
    del state["module/net/0.bias"]
    with pytest.raises(RuntimeError, match=r"0\.bias"):
        restore(state, *Training(1).parts)


def test_nothing_there_is_a_start(tmp_path: Path) -> None:
    assert Checkpoints(str(tmp_path / "none"), IDENTITY).latest() is None


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "all"])
def test_a_damaged_newest_is_passed_over(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(str(tmp_path), IDENTITY)
    older = trained(1)
    checkpoints.save(1, flatten(*older.parts))
    checkpoints.save(2, flatten(*trained(2).parts))
    newest = tmp_path / "step-00000002.safetensors"
    content = newest.read_bytes()
    newest.write_bytes({"cut": content[:-9], "empty": b"", "noise": os.urandom(64), "all": b""}[damage])
    if damage == "all":
        (tmp_path / "step-00000001.safetensors").write_bytes(content[:20])
        assert checkpoints.latest() is None
        return
    found = checkpoints.latest()
    assert found is not None
    assert found[0] == 1
    assert_equal_bits(found[1], older.state())
    assert "step-00000002.safetensors is damaged" in caplog.text


def test_another_training_is_refused_with_its_name(tmp_path: Path) -> None:
    Checkpoints(str(tmp_path), IDENTITY).save(1, Training(0).state())
    other = Checkpoints(str(tmp_path), {**IDENTITY, "fingerprint": "e" * 20})
    with pytest.raises(ResumeError, match=r"step-00000001\.safetensors belongs to .*ffff.* not to .*eeee"):
        other.latest()


def test_only_the_newest_are_kept_and_nothing_else_is_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".step-00000009.safetensors.half").write_bytes(b"a writer died here")
    checkpoints = Checkpoints(str(tmp_path), IDENTITY, keep=2)
    for step in (2, 4, 10, 100):
        checkpoints.save(step, Training(0).state())
    whole = sorted(path.name for path in tmp_path.glob("step-*"))
    assert whole == ["step-00000010.safetensors", "step-00000100.safetensors"]
    assert (tmp_path / "notes.txt").exists()
    found = checkpoints.latest()
    assert found is not None
    assert found[0] == 100


def test_an_unfinished_write_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(str(tmp_path), IDENTITY)
    checkpoints.save(1, Training(0).state())

    def dying(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(2, Training(0).state())
    found = checkpoints.latest()
    assert found is not None
    assert found[0] == 1
