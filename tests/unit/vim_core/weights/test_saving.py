"""Saved models: strict in both directions, and every refusal names the file."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vim_core.errors import DataError
from vim_core.weights.saving import load_into, read_config, read_tensors, to_bytes


@dataclass
class Inner:
    width: int = 1


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)
    name: str = ""


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_round_trip_is_bit_equal(tmp_path: Path) -> None:
    path, first, second = tmp_path / "m.safetensors", network(), network()
    path.write_bytes(to_bytes(first))
    load_into(second, str(path))
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_any_mismatch_is_refused(tmp_path: Path, change: str) -> None:
    state = {name: value.clone() for name, value in network().state_dict().items()}
    if change == "missing":
        del state["0.bias"]
    elif change == "unknown":
        state["0.extra"] = torch.zeros(1)
    else:
        state["0.bias"] = torch.zeros(4)
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(DataError, match=r"m\.safetensors does not fit Sequential"):
        load_into(network(), str(tmp_path / "m.safetensors"))


def test_missing_and_damaged_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(DataError, match=r"m\.safetensors: no such weight file"):
        read_tensors(str(path))
    path.write_bytes(to_bytes(network())[:-3])
    with pytest.raises(DataError, match="not a whole safetensors file"):
        read_tensors(str(path))


def config(tmp_path: Path, record: object) -> str:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(record))
    return str(path)


def test_nested_settings_are_rebuilt(tmp_path: Path) -> None:
    uri = config(tmp_path, {"kind": "toy", "shape": {"inner": {"width": 5}, "name": "x"}})
    assert read_config(uri, "toy", "shape", Outer) == Outer(Inner(5), "x")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"inner": {"width": 5}}, "missing shape.name"),
        ({"inner": {"width": 5}, "name": "x", "colour": 1}, "shape.colour: unknown key"),
        ({"inner": {"widht": 5}, "name": "x"}, "shape.inner.widht: unknown key; did you mean shape.inner.width?"),
        ({"inner": {"width": "5"}, "name": "x"}, "shape.inner.width='5': expected int"),
    ],
)
def test_settings_of_another_version_are_refused_by_key(tmp_path: Path, shape: object, message: str) -> None:
    with pytest.raises(DataError, match=f"config.json: {re.escape(message)}"):
        read_config(config(tmp_path, {"kind": "toy", "shape": shape}), "toy", "shape", Outer)


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="describes a 'prior' model, expected 'toy'"):
        read_config(config(tmp_path, {"kind": "prior", "shape": {}}), "toy", "shape", Outer)


def test_missing_and_damaged_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.json: no such file"):
        read_config(str(tmp_path / "config.json"), "toy", "shape", Outer)
    (tmp_path / "config.json").write_text('{"kind": "to')
    with pytest.raises(DataError, match=r"config\.json: not JSON"):
        read_config(str(tmp_path / "config.json"), "toy", "shape", Outer)
