"""Published weight files: hash, absence, and no pickle but tensors."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vim_core.errors import ConfigError, DataError
from vim_core.weights.published import WeightFile, load_verified, load_weights

KEY = "quantize.loss.perceptual_weights"


def published(path: Path, prefix: int = 8) -> WeightFile:
    return WeightFile("net.pth", hashlib.sha256(path.read_bytes()).hexdigest()[:prefix], "backbone of a test")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.save({"a": torch.arange(3.0)}, tmp_path / "net.pth")
    return tmp_path / "net.pth"


@pytest.mark.parametrize("prefix", [8, 64])
def test_the_right_file_is_read(saved: Path, prefix: int) -> None:
    state = load_weights(published(saved, prefix), str(saved), KEY)
    assert torch.equal(state["a"], torch.arange(3.0))


def test_another_hash_is_refused(saved: Path) -> None:
    wanted = WeightFile("net.pth", "00000000", "backbone of a test")
    with pytest.raises(DataError, match=rf"{KEY}=.*net\.pth.*sha256 is .*net\.pth has 00000000"):
        load_weights(wanted, str(saved), KEY)


def test_an_empty_setting_and_a_missing_file_say_what_to_give(saved: Path, tmp_path: Path) -> None:
    file = published(saved)
    with pytest.raises(ConfigError, match=rf"{KEY} is empty: give the path or URI of net\.pth, the backbone of a test"):
        load_weights(file, "", KEY)
    with pytest.raises(DataError, match=r"nowhere\.pth': no such file; it should be net\.pth"):
        load_weights(file, str(tmp_path / "nowhere.pth"), KEY)


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("trap-was-sprung"),))


def test_code_in_a_file_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.pth"
    torch.save({"a": Trap()}, path)
    with pytest.raises(DataError, match="not a file of tensors alone"):
        load_weights(published(path), str(path), KEY)
    assert not (tmp_path / "trap-was-sprung").exists()


def test_safetensors_are_read_by_their_name(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file({"a": torch.arange(3.0)}, path)
    state, found = load_verified(published(path), str(path), KEY)
    assert torch.equal(state["a"], torch.arange(3.0))
    assert found == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match="not a file of tensors alone"):
        load_weights(published(path), str(path), KEY)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(torch.zeros(3), path)
    with pytest.raises(DataError, match="holds a Tensor"):
        load_weights(published(path), str(path), KEY)
