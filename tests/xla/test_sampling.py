"""Sampling on XLA: the codes of plain torch, one program for every step of every group."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.support.tiny import prior_network
from vim_core.distributed.runtimes.base import Runtime
from vim_core.sampling.logits import SamplingSettings
from vim_core.sampling.sampler import Sampler

pytestmark = pytest.mark.xla

LABELS = torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("setting", "variant"),
    [
        (SamplingSettings(seed=5), "modern"),
        (SamplingSettings(guidance=2.5, guidance_schedule="cosine", top_k=5), "paper"),
    ],
)
def test_codes_are_those_of_plain_torch_and_nothing_compiles_again(
    setting: SamplingSettings,
    variant: str,
    xla: Runtime,
    compiled: Callable[[], int],
    fallbacks: Callable[[], list[str]],
) -> None:
    plain = Sampler(prior_network(null_trained=True, variant=variant), setting, 4)
    there = Sampler(prior_network(null_trained=True, variant=variant).to(xla.device), setting, 4)
    expected = [plain.group(group, LABELS) for group in range(3)]
    assert torch.equal(there.group(0, LABELS), expected[0])
    assert torch.equal(there.group(1, LABELS), expected[1])
    before = compiled()
    assert torch.equal(there.group(2, LABELS), expected[2])
    assert compiled() == before
    given = expected[0][:, :3]
    assert torch.equal(there.group(0, LABELS, given), expected[0])
    before = compiled()
    assert torch.equal(there.group(1, LABELS, expected[1][:, :3]), expected[1])
    assert compiled() == before, "given codes of one length are one more program"
    assert fallbacks() == []
