"""Networks that begin without storage: the same values as by ordinary construction, whole or in shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from tests.support.tiny import assert_equal_bits, quantize_config
from vim_core.config import DiscriminatorConfig, StackConfig
from vim_core.models.discriminator import make_discriminator
from vim_core.models.meta import materialise
from vim_core.models.prior import ImagePrior, PriorShape
from vim_core.models.vit_vqgan import ViTVQGAN
from vim_core.weights.saving import allocate_and_load, to_bytes

LARGER = StackConfig(blocks=2, heads=2, dim=24, mlp=40)

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "tokenizer": lambda: ViTVQGAN(quantize_config(encoder=LARGER)),
    "sincos": lambda: ViTVQGAN(quantize_config(positions="sincos")),
    "paper": lambda: ImagePrior(PriorShape(LARGER, [2, 3], 11, 3)),
    "modern": lambda: ImagePrior(PriorShape(StackConfig(2, 2, 24, 40), [2, 3], 11, 3, variant="modern")),
    "stylegan": lambda: make_discriminator(DiscriminatorConfig(channels=4, base=64), 16),
    "stylegan, spectral": lambda: make_discriminator(DiscriminatorConfig(channels=4, base=64, spectral_norm=True), 16),
    "patch": lambda: make_discriminator(DiscriminatorConfig(kind="patch", channels=8, patch_layers=2), 16),
    "patch, spectral": lambda: make_discriminator(
        DiscriminatorConfig(kind="patch", channels=8, patch_layers=2, spectral_norm=True), 16
    ),
}
UNSAVED = {"sincos", "modern", "stylegan", "stylegan, spectral"}
"""Those with tables or filters that are no part of their state."""


def without_storage(name: str) -> nn.Module:
    with torch.device("meta"):
        return NETWORKS[name]()


def everything(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers, saved or not."""
    return dict(module.named_parameters()) | dict(module.named_buffers())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_values_are_those_of_ordinary_construction(name: str) -> None:
    torch.manual_seed(7)
    ordinary, after = NETWORKS[name](), torch.rand(1)
    network = without_storage(name)
    assert all(value.is_meta for value in everything(network).values())
    torch.manual_seed(7)
    materialise(network, "cpu")
    assert_equal_bits(everything(network), everything(ordinary))
    assert torch.equal(torch.rand(1), after), "the generator must stand where construction leaves it"
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_without_drawing_only_unsaved_buffers_are_filled(name: str) -> None:
    network, ordinary = without_storage(name), NETWORKS[name]()
    state = torch.get_rng_state()
    materialise(network, "cpu", init=False)
    assert torch.equal(torch.get_rng_state(), state)
    unsaved = everything(network).keys() - network.state_dict().keys()
    assert bool(unsaved) == (name in UNSAVED)
    for key in unsaved:
        assert torch.equal(everything(network)[key], everything(ordinary)[key])


class Unsaved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.empty(2), persistent=False)


class Undrawn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2))

    def draw_order(self) -> Iterator[nn.Module]:
        return self.modules()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Unsaved, r"no fill_buffers\(\)"), (Undrawn, r"no reset_parameters\(\)"), (nn.ReLU, "cannot|no draw")],
)
def test_modules_that_cannot_be_made_are_refused(kind: type[nn.Module], reason: str) -> None:
    with torch.device("meta"):
        module = kind()
    with pytest.raises(TypeError, match=reason):
        materialise(module, "cpu")


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """One process that believes to be the last of three; nothing here communicates.

    The same rank each time: torch keeps the first mesh of a shape for the whole process.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=2, world_size=3, store=FakeStore())
    yield init_device_mesh("cpu", (3,))
    dist.destroy_process_group()


def sharded(name: str, mesh: DeviceMesh) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    network = without_storage(name)
    for block in [m for m in network.modules() if hasattr(m, "attention")]:
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network


def assert_parts(network: nn.Module, ordinary: nn.Module) -> None:
    """Every rank holds its rows of each parameter, by torch.chunk along the first axis."""
    rank, whole = dist.get_rank(), dict(ordinary.named_parameters())
    for name, value in network.named_parameters():
        parts = whole[name].detach().chunk(3)
        part = parts[rank] if rank < len(parts) else whole[name][:0]
        assert torch.equal(value.to_local(), part), name  # type: ignore[attr-defined]
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, dict(ordinary.named_buffers())[name])


@pytest.mark.parametrize("name", ["tokenizer", "paper", "modern"])
def test_each_rank_draws_its_part_of_the_ordinary_values(name: str, mesh: DeviceMesh) -> None:
    torch.manual_seed(7)
    ordinary = NETWORKS[name]()
    network = sharded(name, mesh)
    torch.manual_seed(7)
    materialise(network, "cpu")
    assert_parts(network, ordinary)


def test_each_rank_loads_its_part_of_a_file(mesh: DeviceMesh, tmp_path: Path) -> None:
    ordinary, network = NETWORKS["modern"](), sharded("modern", mesh)
    (tmp_path / "m").write_bytes(to_bytes(ordinary))
    allocate_and_load(network, str(tmp_path / "m"))
    assert_parts(network, ordinary)
