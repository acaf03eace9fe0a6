"""Weights into networks without storage: the same bits, strictly, and never two copies in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import save_file

from tests.support.tiny import assert_equal_bits, prior_network
from vim_core.errors import DataError
from vim_core.models.prior import ImagePrior, load_prior, model_config
from vim_core.weights.saving import allocate_and_load, to_bytes


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
def test_any_mismatch_is_refused(change: str, reason: str, dtype: torch.dtype | None, tmp_path: Path) -> None:
    prior = prior_network()
    state = {name: value.clone() for name, value in prior.state_dict().items()}
    if change == "missing":
        del state["norm.bias"]
    elif change == "unknown":
        state["norm.extra"] = torch.zeros(1)
    else:
        state["norm.bias"] = torch.zeros(4) if change == "shape" else torch.zeros(16, dtype=torch.int64)
    save_file(state, tmp_path / "m")
    network = empty(prior)
    reason = reason.replace("float32", "floating-point") if dtype else reason
    with pytest.raises(DataError, match=f"does not fit ImagePrior: {reason}"):
        allocate_and_load(network, str(tmp_path / "m"), dtype=dtype)
    assert all(value.is_meta for value in network.parameters()), "nothing is allocated for a file that does not fit"


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    prior, path = prior_network(), tmp_path / "m.safetensors"
    for uri in (str(path), "memory://fill/nowhere"):
        with pytest.raises(DataError, match=f"{uri}: no such weight file"):
            allocate_and_load(empty(prior), uri)
    path.write_bytes(to_bytes(prior)[:-3])
    with pytest.raises(DataError, match="not a whole safetensors file"):
        allocate_and_load(empty(prior), str(path))


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
