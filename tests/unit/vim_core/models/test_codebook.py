"""The quantizer and its soft assignment against brute force, hand-written losses, closed forms and laws."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vim_core.config import CodebookConfig, OptimConfig, RestartConfig
from vim_core.models import codebook
from vim_core.models.codebook import Codebook, batch_perplexity, entropy_loss, rotation_trick, soft_assignment
from vim_core.optim.optimizers import make_optimizer


def book(l2: bool = True, codes: int = 32, **restart: float) -> Codebook:
    torch.manual_seed(1)
    return Codebook(CodebookConfig(codes=codes, dim=4, l2=l2, restart=RestartConfig(**restart)))  # type: ignore[arg-type]


def seen(x: Tensor, l2: bool) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True) if l2 else x


@pytest.mark.parametrize("l2", [True, False])
def test_nearest_is_the_smallest_euclidean_distance(l2: bool) -> None:
    quantizer, latents = book(l2), torch.randn(500, 4) * 2
    z, entries = seen(latents, l2).double(), seen(quantizer.weight.detach(), l2).double()
    distance = (z[:, None] - entries[None]).square().sum(-1)
    assert torch.equal(quantizer.nearest(latents), distance.argmin(1))


@pytest.mark.parametrize("l2", [True, False])
def test_vectors_are_the_chosen_entries_and_losses_their_distances(l2: bool) -> None:
    quantizer, latents = book(l2), torch.randn(50, 4) * 2
    result = quantizer(latents)
    z, entries = seen(latents, l2), seen(quantizer.weight.detach(), l2)[result.codes]
    torch.testing.assert_close(result.vectors, entries)
    torch.testing.assert_close(result.latents, z)
    expected = (z - entries).square().sum() / (50 * 4)
    torch.testing.assert_close(result.codebook_loss, expected)
    torch.testing.assert_close(result.commitment_loss, expected)
    torch.testing.assert_close(quantizer.vectors(result.codes), entries)


@pytest.mark.parametrize("l2", [True, False])
def test_gradient_passes_straight_through_to_the_looked_up_latents(l2: bool) -> None:
    quantizer, upstream = book(l2), torch.randn(6, 4)
    latents = torch.randn(6, 4, requires_grad=True)
    quantizer(latents).vectors.backward(upstream)
    assert latents.grad is not None
    if not l2:
        assert torch.equal(latents.grad, upstream)
    else:
        (expected,) = torch.autograd.grad(F.normalize(latents, dim=-1), latents, upstream)
        torch.testing.assert_close(latents.grad, expected)
    assert quantizer.weight.grad is None or quantizer.weight.grad.abs().max() == 0


def rotation_between(a: Tensor, b: Tensor) -> Tensor:
    """The matrix that turns unit vector a into b and leaves all that is orthogonal to both: two Householder mirrors."""
    identity = torch.eye(len(a), dtype=a.dtype)
    middle = (a + b) / (a + b).norm()
    mirror_a = identity - 2 * torch.outer(a, a)
    mirror_middle = identity - 2 * torch.outer(middle, middle)
    return mirror_middle @ mirror_a


def test_rotation_trick_against_explicit_matrices() -> None:
    torch.manual_seed(0)
    latents = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    entries, upstream = torch.randn(9, 5, dtype=torch.float64) * 3, torch.randn(9, 5, dtype=torch.float64)
    found = rotation_trick(latents, entries)
    assert torch.equal(found, entries)  # bit for bit
    found.backward(upstream)
    assert latents.grad is not None
    for e, q, g, gradient in zip(latents.detach(), entries, upstream, latents.grad, strict=True):
        turn = rotation_between(e / e.norm(), q / q.norm())
        torch.testing.assert_close(turn @ turn.T, torch.eye(5, dtype=torch.float64))
        assert float(torch.linalg.det(turn)) == pytest.approx(1.0)
        scale = q.norm() / e.norm()
        torch.testing.assert_close(scale * turn @ e, q)
        torch.testing.assert_close(gradient, scale * turn.T @ g)
        # What the trick is for: the gradient at the latent lies to the latent as the one at the code lies to the code.
        torch.testing.assert_close(torch.cosine_similarity(gradient, e, 0), torch.cosine_similarity(g, q, 0))


@pytest.mark.parametrize("l2", [True, False])
def test_rotation_changes_gradients_but_no_output(l2: bool) -> None:
    torch.manual_seed(3)
    latents, upstream, gradients = torch.randn(6, 4), torch.randn(6, 4), {}
    for kind in ("straight_through", "rotation"):
        quantizer = book(l2)
        quantizer.config = CodebookConfig(codes=32, dim=4, l2=l2, gradient=kind)
        x = latents.clone().requires_grad_()
        result = quantizer(x)
        result.vectors.backward(upstream)
        assert torch.equal(result.codes, quantizer.nearest(latents))
        torch.testing.assert_close(result.vectors, quantizer.vectors(result.codes))
        assert quantizer.weight.grad is None or quantizer.weight.grad.abs().max() == 0
        gradients[kind] = x.grad
    x = latents.clone().requires_grad_()
    rotation_trick(seen(x, l2), quantizer.vectors(result.codes).detach()).backward(upstream)
    torch.testing.assert_close(gradients["rotation"], x.grad)
    assert (gradients["rotation"] - gradients["straight_through"]).abs().max() > 1e-3  # type: ignore[operator]


@pytest.mark.parametrize(("counts", "expected"), [([5, 5, 5, 5], 4.0), ([7, 0, 0, 0], 1.0), ([3, 3, 0, 0], 2.0)])
def test_perplexity_counts_the_codes_in_even_use(counts: list[int], expected: float) -> None:
    assert float(batch_perplexity(torch.tensor(counts, dtype=torch.float32))) == pytest.approx(expected)


def test_a_skipped_step_leaves_usage_and_codes_alone() -> None:
    quantizer = book(codes=4, threshold=2.0)
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    optimizer, latents = trained(quantizer), torch.randn(5, 4)
    before["weight"] = quantizer.weight.detach().clone()
    quantizer.observe(torch.tensor([1.0, 0.0, 0.0, 9.0]), torch.tensor(1.0))
    assert quantizer.restart(latents, torch.tensor([0, 1, 2, 3]), optimizer, torch.tensor(1.0)).sum() == 0
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())
    assert all(value.abs().min() > 0 for value in optimizer.state[quantizer.weight].values())
    quantizer.observe(torch.tensor([1.0, 0.0, 0.0, 9.0]), torch.tensor(0.0))
    assert not torch.equal(quantizer.usage, before["usage"])
    assert quantizer.restart(latents, torch.tensor([0, 1, 2, 3]), optimizer, torch.tensor(0.0)).sum() == 4


def test_each_loss_moves_its_own_side() -> None:
    quantizer, latents = book(), torch.randn(6, 4, requires_grad=True)
    result = quantizer(latents)
    result.codebook_loss.backward(retain_graph=True)
    assert latents.grad is None
    assert quantizer.weight.grad is not None
    moved = quantizer.weight.grad.abs().sum(1) > 0
    assert set(moved.nonzero().flatten().tolist()) == set(result.codes.tolist())
    quantizer.weight.grad = None
    result.commitment_loss.backward()
    assert latents.grad is not None
    assert latents.grad.abs().max() > 0
    assert quantizer.weight.grad is None or quantizer.weight.grad.abs().max() == 0


def test_lookup_runs_in_fp32_under_autocast() -> None:
    quantizer, latents = book(), torch.randn(200, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = quantizer(latents)
    assert result.vectors.dtype is torch.float32
    assert torch.equal(result.codes, quantizer.nearest(latents))


def test_usage_is_a_moving_average_of_shares() -> None:
    quantizer = book(codes=4, decay=0.75)
    counts = torch.tensor([6.0, 2.0, 0.0, 0.0])
    expected = torch.full((4,), 0.25)
    for _ in range(3):
        quantizer.observe(counts)
        expected = 0.75 * expected + 0.25 * counts / 8
    torch.testing.assert_close(quantizer.usage, expected)
    assert float(quantizer.usage.sum()) == pytest.approx(1.0)


def trained(quantizer: Codebook) -> torch.optim.Optimizer:
    optimizer = make_optimizer(quantizer, OptimConfig(lr=1e-2))
    quantizer.weight.square().sum().backward()
    optimizer.step()
    return optimizer


def test_restart_moves_dead_codes_only_and_clears_their_moments() -> None:
    quantizer = book(codes=4, threshold=0.5)
    optimizer = trained(quantizer)
    quantizer.usage.copy_(torch.tensor([0.6, 0.1, 0.2, 0.1]))  # the limit is 0.5 / 4
    before = quantizer.weight.detach().clone()
    moments = {name: optimizer.state[quantizer.weight][name].clone() for name in ("exp_avg", "exp_avg_sq")}
    latents, draw = F.normalize(torch.randn(7, 4), dim=-1), torch.tensor([0, 5, 1, 2])
    dead = quantizer.restart(latents, draw, optimizer)
    assert dead.tolist() == [False, True, False, True]
    assert torch.equal(quantizer.weight[[0, 2]], before[[0, 2]])
    assert torch.equal(quantizer.weight[[1, 3]], latents[[5, 2]])
    torch.testing.assert_close(quantizer.usage, torch.tensor([0.6, 0.25, 0.2, 0.25]))
    for name, old in moments.items():
        now = optimizer.state[quantizer.weight][name]
        assert torch.equal(now[[0, 2]], old[[0, 2]])
        assert now[[1, 3]].abs().max() == 0
        assert old.abs().min() > 0
    assert float(optimizer.state[quantizer.weight]["step"]) == 1


def test_restart_never_moves_a_code_onto_a_broken_latent() -> None:
    quantizer = book(codes=4, threshold=2.0)
    before = quantizer.weight.detach().clone()
    latents = torch.tensor([[torch.nan, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    dead = quantizer.restart(latents, torch.tensor([0, 1, 0, 1]), make_optimizer(quantizer, OptimConfig()))
    assert dead.tolist() == [False, True, False, True]
    assert torch.equal(quantizer.weight[[0, 2]], before[[0, 2]])


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
    monkeypatch.setattr(codebook, "CHUNK", chunk)
    latents, entries = tensors()
    soft = soft_assignment(latents, entries, 0.7)
    loss = entropy_loss(soft.sample_entropy, soft.mean, 1.3)
    expected = whole_table(latents, entries, 0.7, 1.3)
    torch.testing.assert_close(loss, expected)
    found = torch.autograd.grad(loss, (latents, entries))
    for mine, theirs in zip(found, torch.autograd.grad(expected, (latents, entries)), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_no_table_larger_than_a_chunk_is_kept_for_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codebook, "CHUNK", 3 * 64)
    latents, entries = tensors(rows=30, codes=64)
    sizes: list[int] = []

    def pack(value: Tensor) -> Tensor:
        sizes.append(value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        soft_assignment(latents, entries, 0.1)
    assert max(sizes, default=0) <= max(latents.numel(), entries.numel(), 10 * 64)


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
