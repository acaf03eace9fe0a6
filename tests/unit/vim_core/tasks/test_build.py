"""Networks of one worker: built as ever, loaded before their average is made (several: `integration/test_sharing`)."""

from __future__ import annotations

import torch

from tests.support.tiny import STACK, assert_equal_bits, runtime
from vim_core.models.prior import ImagePrior, PriorShape
from vim_core.tasks.build import build_network, build_replicated


def prior() -> ImagePrior:
    return ImagePrior(PriorShape(STACK, [2, 2], 11, 3))


def plain() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return prior().state_dict()


def test_one_worker_has_what_the_constructor_draws() -> None:
    expected = plain()
    torch.manual_seed(5)
    network, ema = build_network(prior, runtime(), 0.9)
    assert_equal_bits(network.state_dict(), expected)
    assert ema is not None
    assert_equal_bits(dict(ema.shadow.state_dict()), expected)
    torch.manual_seed(5)
    assert_equal_bits(build_replicated(prior, runtime()).state_dict(), expected)
    assert build_network(prior, runtime())[1] is None


@torch.no_grad()
def given(network: ImagePrior) -> None:
    network.head.weight.fill_(2.0)


def test_the_average_begins_with_what_was_loaded() -> None:
    torch.manual_seed(5)
    network, ema = build_network(prior, runtime(), 0.9, load=given)
    assert ema is not None
    expected = plain() | {"head.weight": torch.full_like(network.head.weight, 2.0).detach()}
    for found in (network, ema.shadow):
        assert_equal_bits(found.state_dict(), expected)
