"""That tensors really lie in parts on the devices, and what the runtime refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.unit.vim_core import tiny
from tests.xla.conftest import DEVICES
from tests.xla.run import device_bytes
from vim_core import runtime as seam
from vim_core.config import OptimConfig
from vim_core.errors import ConfigError
from vim_core.models.discriminator import Discriminator
from vim_core.models.layers import Linear
from vim_core.optim import adamw
from vim_core.runtime.base import Runtime
from vim_core.sharding import FSDP, specs_of

pytestmark = pytest.mark.xla


def networks() -> dict[str, nn.Module]:
    judge = Discriminator(tiny.quantize_config().discriminator, 8)
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
    optimizer = adamw(network, OptimConfig())
    before = {name: p.detach().cpu().clone() for name, p in network.named_parameters()}
    runtime.shard({"network": network}, {"network": optimizer})
    specs = specs_of(network)
    assert sum(FSDP in spec for spec in specs.values()) > 2
    for name, parameter in network.named_parameters():
        whole = parameter.numel() * parameter.element_size()
        part = whole // fsdp if FSDP in specs[name] else whole
        state = optimizer.state[parameter]
        for tensor in (parameter, state["exp_avg"], state["exp_avg_sq"]):
            assert device_bytes(tensor) == [part] * DEVICES, name
        assert torch.equal(runtime.to_host(parameter), before[name])


def test_a_batch_lies_in_parts_on_the_devices(xla: Runtime) -> None:
    batch = {"images": torch.rand(8, 3, 4, 4), "labels": torch.arange(8)}
    placed = xla.place(batch)
    for name, value in placed.items():
        assert device_bytes(value) == [batch[name].numel() * batch[name].element_size() // DEVICES] * DEVICES
        assert torch.equal(value.cpu(), batch[name])


def test_a_copy_of_the_state_compiles_nothing(xla: Runtime, compiled: Callable[[], int]) -> None:
    weight = torch.rand(8, 6)
    network = nn.Linear(6, 8)
    network.weight.data.copy_(weight)
    network = network.to(xla.device)
    placed = xla.place({"x": weight})["x"]
    count = compiled()
    for tensor in (placed, network.weight, torch.ones(3)):
        assert xla.to_host(tensor).device.type == "cpu"
    assert torch.equal(xla.to_host(placed), weight)
    assert torch.equal(xla.to_host(network.weight), weight)
    assert compiled() == count


def test_blocks_keep_their_activations_split_along_the_batch(xla: Runtime) -> None:
    prior = tiny.prior_network()
    prior.head = Linear(16, 12)
    prior = prior.to(xla.device)
    xla.shard({"prior": prior}, {})
    x = xla.place({"x": torch.rand(8, 6, 16)})["x"]
    output = prior.blocks[0](x)
    xla.end_step()
    whole = xla.to_host(output)  # at once, as the loop does: the step is still running
    assert device_bytes(output) == [8 * 6 * 16 * 4 // DEVICES] * DEVICES
    torch.testing.assert_close(whole, prior.cpu().blocks[0](x.cpu()).detach(), atol=1e-5, rtol=1e-5)


def test_a_batch_that_does_not_divide_is_refused(xla: Runtime) -> None:
    with pytest.raises(ConfigError, match="batch=6: not divisible by 4 XLA devices"):
        xla.place({"images": torch.rand(6, 3, 4, 4)})


def test_uneven_shards_and_missing_hosts_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"run\.fsdp=3: does not divide the 4 XLA devices"):
        seam.create("xla", "fp32", threads=1, fsdp=3)
    with pytest.raises(ConfigError, match=r"2 worker\(s\) were started but torch_xla sees 1 host process"):
        seam.create("xla", "fp32", threads=1, world=2)


def test_weights_that_do_not_divide_are_refused(xla: Runtime) -> None:
    with pytest.raises(ConfigError, match=r"run\.fsdp=4: does not divide dimension 0 of head\.weight \[11, 16\]"):
        xla.shard({"prior": tiny.prior_network().to(xla.device)}, {})


def test_reductions_see_the_global_batch_already(xla: Runtime) -> None:
    value = xla.place({"x": torch.arange(8.0)})["x"]
    for found in (xla.sum(value), xla.mean(value), xla.gather(value)):
        assert torch.equal(found.cpu(), torch.arange(8.0))


def test_the_product_rate_is_of_whole_products(xla: Runtime) -> None:
    from vim_core.runtime.measure import product_rate

    # One element alone would seem to come a thousand times as fast as any CPU multiplies.
    assert 0.01 < product_rate(xla, size=512, seconds=0.2) < 50_000


def test_the_numeric_class_names_platform_and_devices(xla: Runtime, tmp_path: Path) -> None:
    assert xla.numeric.record() == {
        "device": "xla-cpu",
        "dtype": "fp32",
        "threads": 0,
        "world": DEVICES,
        "compiled": False,
    }
    assert seam.create("xla", "auto", threads=1).dtype is torch.float32
