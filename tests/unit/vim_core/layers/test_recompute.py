"""Running blocks again in the backward pass changes memory (planning/test_memory.py), never a bit of the gradients."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from tests.support.tiny import Make, assert_equal_bits, quantize_config
from vim_core.config import StackConfig
from vim_core.losses.likelihood import next_token_loss
from vim_core.models.prior import ImagePrior, PriorShape
from vim_core.models.vit_vqgan import ViTVQGAN

DEEP = StackConfig(blocks=3, heads=2, dim=16, mlp=32)


def prior_gradients(variant: str, recompute: bool, bf16: bool) -> tuple[dict[str, Tensor], Counter[str]]:
    torch.manual_seed(0)
    shape = PriorShape(DEEP, [4, 4], 11, 3, dropout=0.3, variant=variant)
    prior = ImagePrior(shape, recompute).train()
    runs = counted(prior)
    codes = torch.randint(0, 11, (3, 16))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = prior(codes, torch.tensor([0, 1, 3]))
    next_token_loss(logits, codes).backward()
    return {name: p.grad for name, p in prior.named_parameters() if p.grad is not None}, runs


def counted(module: nn.Module) -> Counter[str]:
    """How often each block runs."""
    runs: Counter[str] = Counter()
    for name, part in module.named_modules():
        if hasattr(part, "attention"):
            part.attention.register_forward_pre_hook(lambda *_, name=name: runs.update([name]))
    return runs


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("variant", ["paper", "modern"])
def test_gradients_of_the_prior_are_the_same_bits(variant: str, bf16: bool) -> None:
    plain, once = prior_gradients(variant, False, bf16)
    again, twice = prior_gradients(variant, True, bf16)
    assert len(plain) == len(list(ImagePrior(PriorShape(DEEP, [4, 4], 11, 3, variant=variant)).parameters()))
    assert_equal_bits(plain, again)
    assert set(once.values()) == {1}
    assert set(twice.values()) == {2}
    assert len(twice) == 3


@pytest.mark.parametrize("bf16", [False, True])
def test_gradients_of_the_tokenizer_are_the_same_bits(bf16: bool) -> None:
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = ViTVQGAN(quantize_config(encoder=DEEP, recompute=recompute))
        runs = counted(model)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            result = model(torch.rand(3, 3, 8, 8))
        (result.raw.square().mean() + result.quantized.commitment_loss).backward()
        assert set(runs.values()) == {2 if recompute else 1}
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert_equal_bits(*found)


@pytest.mark.parametrize("name", ["prior", "quantizer"])
def test_the_setting_reaches_every_block(makers: dict[str, Make], name: str) -> None:
    task = makers[name](recompute=True)
    runs = counted(task.modules["model"])
    task.step(0, task.batch(0))
    assert set(runs.values()) == {2}


def test_without_gradients_a_block_runs_once() -> None:
    prior = ImagePrior(PriorShape(DEEP, [2, 2], 11, 3), recompute=True)
    runs = counted(prior)
    with torch.no_grad():
        prior(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    assert set(runs.values()) == {1}
