"""Gradients averaged in buckets during the backward pass: order and number of collectives, views, accumulation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.support.fake_group import pretended_workers
from tests.support.tiny import quantize_config
from vim_core.config import DiscriminatorConfig, OptimConfig
from vim_core.distributed.gradient_buckets import GradientBuckets
from vim_core.distributed.runtimes.base import CpuRuntime
from vim_core.optim.optimizers import make_optimizer
from vim_core.tasks.quantizer import QuantizerData, QuantizerTask
from vim_core.training.accumulation import accumulate_gradients

WIDTH, LAYERS = 32, 6
TWO_LAYERS = 2 * 4 * (WIDTH * WIDTH + WIDTH)
X = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def two_workers() -> Iterator[None]:
    with pretended_workers(2):
        yield


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens in order: collectives as `reduce <elements>`."""
    events: list[str] = []
    real = dist.all_reduce

    def all_reduce(tensor: Tensor, *args: Any, **options: Any) -> Any:
        events.append(f"reduce {tensor.numel()}")
        return real(tensor, *args, **options)

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    return events


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))


def loss_of(module: nn.Module, x: Tensor = X) -> Tensor:
    return module(x).square().mean()  # type: ignore[no-any-return]


def test_buckets_start_before_the_backward_pass_ends(events: list[str]) -> None:
    module = network()
    buckets = GradientBuckets(module.parameters(), 2, TWO_LAYERS)
    for index, layer in enumerate(module):
        layer.register_full_backward_hook(lambda *_, index=index: events.append(f"backward {index}"))
    x = X.clone().requires_grad_()
    loss_of(module, x).backward()
    events.append("end")
    buckets.finish()
    reduce = f"reduce {TWO_LAYERS // 4}"
    assert [event for event in events if event == reduce] == [reduce] * 3
    # The gradients of layers 5 and 4 are under way when layer 3's are computed, and nothing is left for the end.
    assert events.index(reduce) < events.index("backward 2")
    assert events[-1] == "end"


def test_gradients_are_shares_and_views_in_the_layout_of_their_parameters() -> None:
    plain, shared = (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3)) for _ in range(2))
    shared.load_state_dict(plain.state_dict())
    shared.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(shared, OptimConfig())
    buckets = GradientBuckets(shared.parameters(), 2)
    x = torch.randn(2, 3, 8, 8)
    loss_of(plain, x).backward()
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        loss_of(shared, x).backward()
        buckets.finish()
        for p, q in zip(plain.parameters(), shared.parameters(), strict=True):
            assert p.grad is not None
            assert q.grad is not None
            # The pretended sum is this worker's share alone.
            torch.testing.assert_close(q.grad, p.grad / 2)
            assert q.grad.stride() == q.stride()
    assert len({q.grad.untyped_storage().data_ptr() for q in shared.parameters() if q.grad is not None}) == 1
    optimizer.step()


def test_only_the_last_microbatch_reduces(events: list[str]) -> None:
    module, whole, runtime = network(), network(), CpuRuntime("fp32", 1, 0, 2)
    for step in range(2):
        events.clear()
        module.zero_grad(set_to_none=True)
        accumulate_gradients(lambda x: ({"loss": loss_of(module, x)}, None), [X], 4, runtime, module)
        if step:
            assert len(events) == 1, "within the last backward pass"
        runtime.average_gradients(module)
        assert len(events) == 1
    loss_of(whole).backward()
    for p, q in zip(whole.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad / 2 if p.grad is not None else None)


def test_a_parameter_without_gradient_keeps_none_and_the_order(events: list[str]) -> None:
    module = network()
    buckets = GradientBuckets(module.parameters(), 2, TWO_LAYERS)
    # The last layer is in the first bucket, which therefore waits; so do those behind it.
    loss_of(module[:-1]).backward()
    assert events == []
    buckets.finish()
    assert len(events) == 3
    assert module[-1].weight.grad is None
    assert module[0].weight.grad is not None


def test_a_second_backward_pass_before_the_update_is_refused() -> None:
    module = network()
    buckets = GradientBuckets(module.parameters(), 2)
    loss_of(module).backward()
    with pytest.raises(RuntimeError, match="got two gradients before the update"):
        loss_of(module).backward()
    assert buckets.buckets


def test_a_quantizers_step_reduces_each_network_once(images: QuantizerData, events: list[str]) -> None:
    """The discriminator runs in three passes, and with R1 in a fourth; it is reduced in its own step alone."""
    judge = DiscriminatorConfig(channels=4, base=64, r1_every=2, stddev_group=2)
    settings = quantize_config(batch=8, accumulate=2, discriminator=judge)
    task = QuantizerTask(settings, images, CpuRuntime("fp32", 1, 0, 2))
    assert task.discriminator is not None
    sizes = [sum(-(-p.numel() // 16) * 16 for p in m.parameters()) for m in (task.model, task.discriminator)]
    for step in range(4):
        events.clear()
        task.step(step, task.batch(step))
        large = [event for event in events if int(event.split()[1]) > 100]
        assert large == [f"reduce {size}" for size in sizes], step
