"""Weight files: strict in both directions, no pickle, one copy in memory; every refusal names the file."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.support.tiny import assert_equal_bits, prior_network
from vim_core.errors import ConfigError, DataError
from vim_core.models.prior import ImagePrior, load_prior, model_config
from vim_core.weights.saving import (
    WeightFile,
    allocate_and_load,
    load_into,
    load_verified,
    read_config,
    to_bytes,
)


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


def save_changed(module: nn.Module, layer: str, change: str, path: Path) -> None:
    """A file of the module's weights in which the layer's bias is `missing`, or of another `shape` or `type`."""
    state = {name: value.clone() for name, value in module.state_dict().items()}
    bias = state.pop(f"{layer}.bias")
    changes = {"unknown": bias, "shape": torch.zeros(4), "type": bias.long()}
    state |= {f"{layer}.bias": changes[change]} if change in changes else {}
    state |= {f"{layer}.extra": torch.zeros(1)} if change == "unknown" else {}
    save_file(state, path)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_any_mismatch_is_refused(tmp_path: Path, change: str) -> None:
    save_changed(network(), "0", change, tmp_path / "m.safetensors")
    with pytest.raises(DataError, match=r"m\.safetensors does not fit Sequential"):
        load_into(network(), str(tmp_path / "m.safetensors"))


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


def test_missing_and_damaged_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.json: no such file"):
        read_config(str(tmp_path / "config.json"), "toy", "shape", Outer)
    (tmp_path / "config.json").write_text('{"kind": "to')
    with pytest.raises(DataError, match=r"config\.json: not JSON"):
        read_config(str(tmp_path / "config.json"), "toy", "shape", Outer)


KEY = "quantize.loss.perceptual_weights"


def published(path: Path) -> WeightFile:
    return WeightFile("net.pth", hashlib.sha256(path.read_bytes()).hexdigest()[:8], "backbone of a test")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.save({"a": torch.arange(3.0)}, tmp_path / "net.pth")
    return tmp_path / "net.pth"


def test_the_right_file_is_read_and_another_hash_refused(saved: Path) -> None:
    assert torch.equal(load_verified(published(saved), str(saved), KEY)[0]["a"], torch.arange(3.0))
    wanted = WeightFile("net.pth", "00000000", "backbone of a test")
    with pytest.raises(DataError, match=rf"{KEY}=.*net\.pth.*sha256 is .*net\.pth has 00000000"):
        load_verified(wanted, str(saved), KEY)


def test_an_empty_setting_and_a_missing_file_say_what_to_give(saved: Path, tmp_path: Path) -> None:
    file = published(saved)
    with pytest.raises(ConfigError, match=rf"{KEY} is empty: give the path or URI of net\.pth, the backbone of a test"):
        load_verified(file, "", KEY)
    with pytest.raises(DataError, match=r"nowhere\.pth': no such file; it should be net\.pth"):
        load_verified(file, str(tmp_path / "nowhere.pth"), KEY)


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("trap-was-sprung"),))


def test_code_in_a_file_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.pth"
    torch.save({"a": Trap()}, path)
    with pytest.raises(DataError, match="not a file of tensors alone"):
        load_verified(published(path), str(path), KEY)
    assert not (tmp_path / "trap-was-sprung").exists()


def test_safetensors_are_read_by_their_name(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file({"a": torch.arange(3.0)}, path)
    state, found = load_verified(published(path), str(path), KEY)
    assert torch.equal(state["a"], torch.arange(3.0))
    assert found == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match="not a file of tensors alone"):
        load_verified(published(path), str(path), KEY)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(torch.zeros(3), path)
    with pytest.raises(DataError, match="holds a Tensor"):
        load_verified(published(path), str(path), KEY)


def empty(prior: ImagePrior) -> ImagePrior:
    with torch.device("meta"):
        return ImagePrior(prior.shape)


@pytest.mark.parametrize("variant", ["paper", "modern"])
def test_the_same_bits_from_a_path_and_from_a_store(variant: str, tmp_path: Path) -> None:
    prior = prior_network(variant=variant)
    path, remote = tmp_path / "m.safetensors", f"memory://fill/{variant}.safetensors"
    path.write_bytes(to_bytes(prior))
    with fsspec.open(remote, "wb") as stream:
        stream.write(to_bytes(prior))
    for uri in (str(path), f"file://{path}", remote):
        network = empty(prior)
        allocate_and_load(network, uri)
        assert_equal_bits(network.state_dict(), prior.state_dict())
        codes, labels = torch.arange(12).view(2, 6) % 11, torch.tensor([0, 2])
        assert torch.equal(network.eval()(codes, labels), prior(codes, labels))
    path.unlink()
    assert torch.equal(network(codes, labels), prior(codes, labels)), "nothing may stay mapped to the file"


def test_loading_draws_no_noise(tmp_path: Path) -> None:
    prior = prior_network()
    (tmp_path / "m").write_bytes(to_bytes(prior))
    (tmp_path / "c").write_bytes(model_config(prior.shape))
    state = torch.get_rng_state()
    load_prior(str(tmp_path / "m"), str(tmp_path / "c"))
    assert torch.equal(torch.get_rng_state(), state)


def test_another_type_only_where_it_is_asked_for(tmp_path: Path) -> None:
    prior = prior_network()
    (tmp_path / "m").write_bytes(to_bytes(prior))
    network = empty(prior)
    allocate_and_load(network, str(tmp_path / "m"), dtype=torch.bfloat16)
    assert_equal_bits(network.state_dict(), {name: v.bfloat16() for name, v in prior.state_dict().items()})
    (tmp_path / "m").write_bytes(to_bytes(network))
    with pytest.raises(DataError, match=r"qkv.bias is bfloat16 \[48\], expected float32 \[48\]"):
        allocate_and_load(empty(prior), str(tmp_path / "m"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("missing", "norm.bias is missing"),
        ("unknown", "norm.extra is unknown"),
        ("shape", r"norm.bias is float32 \[4\], expected float32 \[16\]"),
        ("type", r"norm.bias is int64 \[16\], expected float"),
    ],
)
@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_any_mismatch_is_refused_before_anything_is_allocated(
    change: str, reason: str, dtype: torch.dtype | None, tmp_path: Path
) -> None:
    prior = prior_network()
    save_changed(prior, "norm", change, tmp_path / "m")
    network = empty(prior)
    reason = reason.replace("float32", "floating-point") if dtype else reason
    with pytest.raises(DataError, match=f"does not fit ImagePrior: {reason}"):
        allocate_and_load(network, str(tmp_path / "m"), dtype=dtype)
    assert all(value.is_meta for value in network.parameters()), "nothing is allocated for a file that does not fit"


def test_missing_and_damaged_weights_are_named(tmp_path: Path) -> None:
    prior, path = prior_network(), tmp_path / "m.safetensors"
    for uri in (str(path), "memory://fill/nowhere"):
        with pytest.raises(DataError, match=f"{uri}: no such weight file"):
            allocate_and_load(empty(prior), uri)
        with pytest.raises(DataError, match=f"{uri}: no such weight file"):
            load_into(prior, uri)
    path.write_bytes(to_bytes(prior)[:-3])
    with pytest.raises(DataError, match="not a whole safetensors file"):
        allocate_and_load(empty(prior), str(path))
    with pytest.raises(DataError, match="not a whole safetensors file"):
        load_into(prior, str(path))


PEAKS = """
import sys, torch
import torch.distributed as dist
from pathlib import Path
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from vim_core.config import StackConfig
from vim_core.models.prior import ImagePrior, PriorShape
from vim_core.weights.saving import allocate_and_load, load_into, to_bytes

def resident(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def peak(work):
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    work()
    return (resident("VmHWM") - before) / size

def empty(*stack):
    with torch.device("meta"):
        return ImagePrior(PriorShape(StackConfig(*stack), [4, 4], 256, 1))

def sharded(*stack):
    network = empty(*stack)
    for block in network.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(network, mesh=mesh)

dist.init_process_group("fake", rank=1, world_size=4, store=FakeStore())
mesh = init_device_mesh("cpu", (4,))
# What libraries load at the first use is not the weights'.
small = sys.argv[1] + ".small"
Path(small).write_bytes(to_bytes(ImagePrior(empty(1, 1, 8, 8).shape)))
allocate_and_load(empty(1, 1, 8, 8), small)
allocate_and_load(sharded(1, 1, 8, 8), small)
load_into(ImagePrior(empty(1, 1, 8, 8).shape), small)

network = empty(4, 4, 640, 2560)
size = sum(p.numel() * 4 for p in network.parameters())
by_filling = peak(lambda: allocate_and_load(network, sys.argv[1]))
del network
one_of_four = sharded(4, 4, 640, 2560)
by_shards = peak(lambda: allocate_and_load(one_of_four, sys.argv[1]))
print(by_filling, by_shards, peak(lambda: load_into(ImagePrior(empty(4, 4, 640, 2560).shape), sys.argv[1])))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="no /proc/self/clear_refs to reset the peak"
)
def test_memory_peaks_at_one_copy_and_at_a_quarter_on_four_ranks(tmp_path: Path) -> None:
    """80 MB of weights: loading beside a whole file shows what a second copy would look like."""
    from vim_core.config import StackConfig
    from vim_core.models.prior import PriorShape

    with torch.device("meta"):
        network = ImagePrior(PriorShape(StackConfig(4, 4, 640, 2560), [4, 4], 256, 1))
    path = tmp_path / "m.safetensors"
    save_file({name: torch.ones(value.shape) for name, value in network.state_dict().items()}, path)
    command = [sys.executable, "-c", PEAKS, str(path)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True
    )
    by_filling, by_shards, by_copying = map(float, done.stdout.split())
    assert by_filling < 1.25, "the weights and no more than one tensor beside them"
    assert by_shards < 0.45, "a quarter of the weights and no more than one tensor beside it"
    assert by_copying > 1.8
