"""Soft assignment and its entropies against the whole table of probabilities, closed forms and laws."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vim_core.config import EntropyConfig
from vim_core.errors import ConfigError
from vim_core.losses import codebook_entropy
from vim_core.losses.codebook_entropy import entropy_loss, soft_assignment


def whole_table(latents: Tensor, entries: Tensor, temperature: float, diversity: float) -> Tensor:
    """The loss with every probability written out."""
    distance = (latents[:, None] - entries[None]).square().sum(-1)
    shares = (-distance / temperature).softmax(1)
    mean = shares.mean(0)
    own = -(shares * shares.log()).sum(1).mean()
    return own + diversity * (mean * mean.log()).sum()


def tensors(rows: int = 23, codes: int = 7, width: int = 4) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    latents, entries = torch.randn(rows, width, dtype=torch.float64), torch.randn(codes, width, dtype=torch.float64)
    return latents.requires_grad_(), entries.requires_grad_()


@pytest.mark.parametrize("chunk", [7, 5 * 7, 1 << 20])
def test_chunks_give_the_loss_and_gradients_of_the_whole_table(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codebook_entropy, "CHUNK", chunk)
    latents, entries = tensors()
    soft = soft_assignment(latents, entries, 0.7)
    loss = entropy_loss(soft.sample_entropy, soft.mean, 1.3)
    expected = whole_table(latents, entries, 0.7, 1.3)
    torch.testing.assert_close(loss, expected)
    found = torch.autograd.grad(loss, (latents, entries))
    for mine, theirs in zip(found, torch.autograd.grad(expected, (latents, entries)), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_no_table_larger_than_a_chunk_is_kept_for_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codebook_entropy, "CHUNK", 3 * 64)
    latents, entries = tensors(rows=30, codes=64)
    sizes: list[int] = []

    def pack(value: Tensor) -> Tensor:
        sizes.append(value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        soft_assignment(latents, entries, 0.1)
    assert max(sizes, default=0) <= max(latents.numel(), entries.numel(), 10 * 64)


@pytest.mark.parametrize("codes", [2, 8])
def test_best_and_worst_assignments(codes: int) -> None:
    entries = torch.eye(codes)
    sure = soft_assignment(entries.repeat(3, 1), entries, 1e-3)
    assert float(entropy_loss(sure.sample_entropy, sure.mean, 1.0)) == pytest.approx(-math.log(codes), abs=1e-5)
    undecided = soft_assignment(torch.zeros(5, codes), entries, 1.0)
    assert float(undecided.sample_entropy) == pytest.approx(math.log(codes), rel=1e-5)
    assert float(entropy_loss(undecided.sample_entropy, undecided.mean, 1.0)) == pytest.approx(0, abs=1e-5)
    collapsed = soft_assignment(entries[:1].repeat(4, 1), entries, 1e-3)
    loss = entropy_loss(collapsed.sample_entropy, collapsed.mean, 1.0)
    assert float(loss) == pytest.approx(0, abs=1e-5)


def test_unused_codes_give_no_broken_gradient() -> None:
    entries = torch.eye(4).requires_grad_()
    soft = soft_assignment(torch.eye(4)[:1], entries, 1e-4)
    entropy_loss(soft.sample_entropy, soft.mean, 1.0).backward()
    assert entries.grad is not None
    assert entries.grad.isfinite().all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12), st.floats(0.05, 5.0))
def test_the_mean_is_never_surer_than_its_parts(seed: int, codes: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    latents, entries = torch.randn(9, 3, generator=generator), torch.randn(codes, 3, generator=generator)
    soft = soft_assignment(latents, entries, temperature)
    assert float(soft.mean.sum()) == pytest.approx(1.0, abs=1e-5)
    assert -1e-6 <= float(soft.sample_entropy) <= math.log(codes) + 1e-5
    # Concavity of the entropy: with diversity 1 the loss lies in [-log K, 0].
    loss = float(entropy_loss(soft.sample_entropy, soft.mean, 1.0))
    assert -math.log(codes) - 1e-5 <= loss <= 1e-5


@pytest.mark.parametrize(("field", "value"), [("weight", -1.0), ("temperature", 0.0), ("diversity", -0.5)])
def test_settings_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"entropy.{field}="):
        EntropyConfig(**{field: value})
