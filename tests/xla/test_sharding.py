"""That tensors really lie in parts on the devices, and what the runtime refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.support import tiny
from tests.xla.conftest import DEVICES
from tests.xla.run import device_bytes
from vim_core.checkpoint.shard_files import (
    FORMAT,
    PIECES,
    CheckpointIndex,
    open_checkpoint,
    shard_state_dict,
    to_json_bytes,
    write_shard,
)
from vim_core.checkpoint.state_dict import flat_state_dict
from vim_core.config import OptimConfig
from vim_core.distributed import runtimes as seam
from vim_core.distributed.runtimes import xla_shards
from vim_core.distributed.runtimes.base import Runtime
from vim_core.distributed.spmd import FSDP, specs_of
from vim_core.errors import ConfigError
from vim_core.layers.transformer import LayerNorm, Linear
from vim_core.models.discriminator import StyleGANDiscriminator
from vim_core.optim.optimizers import make_optimizer
from vim_core.training.evaluation import snapshot

pytestmark = pytest.mark.xla


def networks() -> dict[str, nn.Module]:
    judge = StyleGANDiscriminator(tiny.quantize_config().discriminator, 8)
    return {"tokenizer": tiny.tokenizer_network(), "prior": tiny.prior_network(), "judge": judge}


@pytest.fixture(scope="module", params=["tokenizer", "prior", "judge"])
def network(request: pytest.FixtureRequest, xla: Runtime) -> nn.Module:
    found = networks()[request.param]
    if request.param == "prior":  # 11 codes do not divide by 4
        found.head = nn.Linear(16, 12)
    return found.to(xla.device)


@pytest.mark.parametrize("fsdp", [4, 2, 1])
def test_each_device_holds_its_part_of_weights_and_moments(network: nn.Module, fsdp: int) -> None:
    runtime = seam.create("xla", "fp32", threads=1, fsdp=fsdp)
    optimizer = make_optimizer(network, OptimConfig())
    before = {name: p.detach().cpu().clone() for name, p in network.named_parameters()}
    runtime.mark_sharding({"network": network}, {"network": optimizer})
    specs = specs_of(network)
    assert sum(FSDP in spec for spec in specs.values()) > 2
    for name, parameter in network.named_parameters():
        whole = parameter.numel() * parameter.element_size()
        part = whole // fsdp if FSDP in specs[name] else whole
        state = optimizer.state[parameter]
        for tensor in (parameter, state["exp_avg"], state["exp_avg_sq"]):
            assert device_bytes(tensor) == [part] * DEVICES, name
        assert torch.equal(runtime.to_host(parameter), before[name])


def test_the_factored_adam_lies_in_parts_where_its_parameter_does(xla: Runtime) -> None:
    """Blocks [rows of 4], heads and embeddings [columns of 4]; bytes of the state beside those of the weights."""
    prior = tiny.prior_network()
    prior.head = Linear(16, 12)
    prior = prior.to(xla.device)
    optimizer = make_optimizer(prior, OptimConfig(kind="factored", first_moment="int8"))
    xla.mark_sharding({"prior": prior}, {"prior": optimizer})
    specs = specs_of(prior)
    for name, parameter in prior.named_parameters():
        slots = {key: (value.numel(), device_bytes(value)) for key, value in optimizer.state[parameter].items()}
        if parameter.ndim < 2:
            assert slots["exp_avg"][1] == slots["exp_avg_sq"][1] == [4 * parameter.numel()] * DEVICES
            continue
        rows, columns = (DEVICES if axis is FSDP else 1 for axis in specs[name])
        assert slots["exp_avg"] == (parameter.numel(), [parameter.numel() // (rows * columns)] * DEVICES), name
        assert slots["row"] == (parameter.shape[0], [4 * parameter.shape[0] // rows] * DEVICES), name
        assert slots["column"] == (parameter.shape[1], [4 * parameter.shape[1] // columns] * DEVICES), name
        # One block a row here, so that columns cannot split it.
        assert slots["exp_avg_scale"][1] == [4 * slots["exp_avg_scale"][0] // rows] * DEVICES, name
    split = [name for name, spec in specs.items() if FSDP in spec]
    assert {"head.weight", "code_embedding.weight", "blocks.0.mlp.up.weight"} <= set(split)


def test_microbatches_are_consecutive_and_stay_on_their_devices(xla: Runtime) -> None:
    batch = torch.arange(16 * 3).view(16, 3)
    placed = xla.to_device({"x": batch}, 2)["x"]
    parts = xla.microbatches(placed, 2)
    again = xla.join_microbatches(parts)
    xla.end_step()
    assert [part.cpu().tolist() for part in parts] == [part.tolist() for part in batch.chunk(2)]
    assert [device_bytes(part) for part in parts] == [[2 * 3 * 8] * DEVICES] * 2
    assert torch.equal(again.cpu(), placed.cpu())
    assert xla.microbatches(placed, 1)[0] is placed


def test_norms_gather_no_activations(xla: Runtime) -> None:
    """torch's own would be a batch norm over all tokens, computed whole on every device."""
    norm = LayerNorm(16)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(8, 6, 16)
    expected = norm(x)
    output = norm.to(xla.device)(xla.to_device({"x": x})["x"])
    xla.end_step()
    assert device_bytes(output) == [8 * 6 * 16 * 4 // DEVICES] * DEVICES
    torch.testing.assert_close(output.cpu(), expected, atol=1e-6, rtol=1e-5)


def test_a_batch_lies_in_parts_on_the_devices(xla: Runtime) -> None:
    batch = {"images": torch.rand(8, 3, 4, 4), "labels": torch.arange(8)}
    placed = xla.to_device(batch)
    for name, value in placed.items():
        assert device_bytes(value) == [batch[name].numel() * batch[name].element_size() // DEVICES] * DEVICES
        assert torch.equal(value.cpu(), batch[name])


def test_pixels_travel_as_bytes_and_become_the_floats_of_the_cpu(xla: Runtime) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(8, 32)
    placed = [xla.to_device({"images": pixels}, parts)["images"] for parts in (1, 2)]
    xla.end_step()
    assert device_bytes(placed[0]) == [256 * 4 // DEVICES] * DEVICES
    assert torch.equal(placed[0].cpu(), pixels.float() / 255)
    halves = torch.cat([part.cpu() for part in xla.microbatches(placed[1], 2)])
    assert torch.equal(halves, pixels.float() / 255)


def test_a_copy_of_the_state_compiles_nothing(xla: Runtime, compiled: Callable[[], int]) -> None:
    weight = torch.rand(8, 6)
    network = nn.Linear(6, 8)
    network.weight.data.copy_(weight)
    network = network.to(xla.device)
    placed = xla.to_device({"x": weight})["x"]
    count = compiled()
    for tensor in (placed, network.weight, torch.ones(3)):
        assert xla.to_host(tensor).device.type == "cpu"
    assert torch.equal(xla.to_host(placed), weight)
    assert torch.equal(xla.to_host(network.weight), weight)
    assert compiled() == count


@pytest.mark.parametrize(
    ("fsdp", "hosts", "columns", "several"),
    [
        (4, [range(4)], False, False),
        (2, [(0, 1), (2, 3)], False, False),  # the first host has a whole copy
        (4, [(0, 1), (2, 3)], True, False),
        (4, [(0, 2), (1, 3)], True, True),
        (2, [(0, 2), (1, 3)], True, False),
    ],
)
def test_each_host_saves_what_lies_on_its_devices_and_compiles_nothing(
    fsdp: int,
    hosts: list[Sequence[int]],
    columns: bool,
    several: bool,
    compiled: Callable[[], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two hosts are pretended: each sees the shards of its devices. Rows, columns, two parts of a tensor, copies."""
    runtime = seam.create("xla", "fp32", threads=1, fsdp=fsdp)
    prior = tiny.prior_network()
    prior.head = Linear(16, 12)
    prior = prior.to(runtime.device)
    optimizer = make_optimizer(prior, OptimConfig(kind="factored", first_moment="int8"))
    with torch.no_grad():
        for slots in optimizer.state.values():
            for slot in slots.values():
                slot.copy_(torch.arange(slot.numel()).view(slot.shape) % 100)
    runtime.mark_sharding({"prior": prior}, {"prior": optimizer})
    state = flat_state_dict({"prior": prior}, {"prior": optimizer})
    expected = {name: runtime.to_host(value) for name, value in state.items()}
    count, everything = compiled(), xla_shards._local_shards
    records, written = [], 0
    for rank, devices in enumerate(hosts):
        monkeypatch.setattr(xla_shards, "_local_shards", lambda tensor, own=devices: seen(everything(tensor), own))
        host = SimpleNamespace(rank=rank, world=len(hosts), own_parts=runtime.own_parts, to_host=runtime.to_host)
        shards = dict(shard_state_dict(state, host))  # type: ignore[arg-type]
        written += sum(shard.value.numel() * shard.value.element_size() for shard in shards.values())
        records.append(write_shard(str(tmp_path), f"{rank}", shards))
    assert compiled() == count
    assert written == sum(value.numel() * value.element_size() for value in expected.values())
    index = CheckpointIndex(1, {}, {}, records)
    (tmp_path / "index.json").write_bytes(to_json_bytes(index))
    assert index.format == (PIECES if columns else FORMAT), "other checkpoints are as they were"
    keys = {key for record in records for entry in record.tensors.values() for key in entry}
    assert ({"columns"} <= keys, {"name"} <= keys) == (columns, several)
    found = open_checkpoint(str(tmp_path))
    tiny.assert_equal_bits({name: found.rows(name) for name in found.names()}, expected)
    assert torch.equal(found.rows("module/prior/head.weight", 2, 9), expected["module/prior/head.weight"][2:9])
    table = "module/prior/code_embedding.weight"
    assert torch.equal(found.rows(table, 2, 9), expected[table][2:9])


def seen(shards: list[Any], devices: Sequence[int]) -> list[Any]:
    """Those of some devices; one that every device has whole stays."""
    return shards if not shards or shards[0][2] is None else [shards[device] for device in devices]


def test_a_snapshot_for_evaluations_compiles_nothing(xla: Runtime, compiled: Callable[[], int]) -> None:
    prior = tiny.prior_network()
    prior.head = Linear(16, 12)
    expected = {name: value.clone() for name, value in prior.state_dict().items()}
    prior = prior.to(xla.device).train()
    xla.mark_sharding({"prior": prior}, {})
    count = compiled()
    copy = snapshot(prior, xla)
    assert copy is not None
    assert compiled() == count
    assert {value.device.type for value in copy.state_dict().values()} == {"cpu"}
    assert all(torch.equal(expected[name], value) for name, value in copy.state_dict().items())
    assert (copy.training, prior.training) == (False, True)
    assert next(prior.parameters()).device.type == "xla"


def test_blocks_keep_their_activations_split_along_the_batch(xla: Runtime) -> None:
    prior = tiny.prior_network()
    prior.head = Linear(16, 12)
    prior = prior.to(xla.device)
    xla.mark_sharding({"prior": prior}, {})
    x = xla.to_device({"x": torch.rand(8, 6, 16)})["x"]
    output = prior.blocks[0](x)
    xla.end_step()
    whole = xla.to_host(output)  # at once, as the loop does: the step is still running
    assert device_bytes(output) == [8 * 6 * 16 * 4 // DEVICES] * DEVICES
    torch.testing.assert_close(whole, prior.cpu().blocks[0](x.cpu()).detach(), atol=1e-5, rtol=1e-5)


def test_what_does_not_divide_and_missing_hosts_are_refused(xla: Runtime) -> None:
    with pytest.raises(ConfigError, match="batch=6: not divisible by 4 XLA devices"):
        xla.to_device({"images": torch.rand(6, 3, 4, 4)})
    with pytest.raises(ConfigError, match=r"accumulate=2: makes parts of 6 .* of batch=12, not divisible by 4 XLA"):
        xla.to_device({"images": torch.rand(12, 3, 4, 4)}, 2)
    with pytest.raises(ConfigError, match=r"run\.fsdp=4: does not divide dimension 0 of head\.weight \[11, 16\]"):
        xla.mark_sharding({"prior": tiny.prior_network().to(xla.device)}, {})
    with pytest.raises(ConfigError, match=r"run\.fsdp=3: does not divide the 4 XLA devices"):
        seam.create("xla", "fp32", threads=1, fsdp=3)
    with pytest.raises(ConfigError, match=r"2 worker\(s\) were started but torch_xla sees 1 host process"):
        seam.create("xla", "fp32", threads=1, world=2)


def test_reductions_see_the_global_batch_already(xla: Runtime) -> None:
    value = xla.to_device({"x": torch.arange(8.0)})["x"]
    for found in (xla.sum(value), xla.mean(value), xla.gather(value)):
        assert torch.equal(found.cpu(), torch.arange(8.0))


def test_the_product_rate_is_of_whole_products(xla: Runtime) -> None:
    from vim_core.distributed.runtimes.base import product_rate

    # One element alone would seem to come a thousand times as fast as any CPU multiplies.
    assert 0.01 < product_rate(xla, size=512, seconds=0.2) < 50_000


def test_the_numeric_class_names_platform_and_devices(xla: Runtime, tmp_path: Path) -> None:
    assert asdict(xla.numeric) == {
        "device": "xla-cpu",
        "dtype": "fp32",
        "threads": 0,
        "world": DEVICES,
        "compiled": False,
        "products": "fp32",
        "hardware": "",
        "deterministic": True,
    }
    assert xla.numeric.family == "xla-cpu-fp32"
    assert seam.create("xla", "auto", threads=1).dtype is torch.float32
