"""Sampling: the right distribution, the right support, and samples that depend on nothing but their key."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from tests.unit.vim_core.tiny import prior_network
from vim_core.sampling import Sampler, Settings, draw, noise, restrict

LOGITS = torch.tensor([0.3, -1.0, 2.0, 0.0, 1.1, -0.4])
DISTINCT = st.lists(st.integers(-40, 40), min_size=2, max_size=9, unique=True)


def uniform(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(count))


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    count = 20_000
    codes = draw(LOGITS.expand(count, -1), uniform(count), Settings(temperature=temperature))
    expected = np.exp(LOGITS.double().numpy() / temperature)
    expected *= count / expected.sum()
    assert chisquare(torch.bincount(codes, minlength=6).numpy(), expected).pvalue > 1e-3


def test_restricted_draws_follow_the_renormalised_softmax() -> None:
    count = 20_000
    codes = draw(LOGITS.expand(count, -1), uniform(count), Settings(top_k=3))
    expected = np.exp(LOGITS[[0, 2, 4]].double().numpy())
    expected *= count / expected.sum()
    counts = torch.bincount(codes, minlength=6)
    assert counts[[1, 3, 5]].sum() == 0
    assert chisquare(counts[[0, 2, 4]].numpy(), expected).pvalue > 1e-3


def test_low_temperature_is_greedy() -> None:
    logits = torch.randn(500, 20)
    assert torch.equal(draw(logits, uniform(500), Settings(temperature=1e-6)), logits.argmax(1))


def test_extreme_uniform_numbers_stay_in_the_support() -> None:
    edges = torch.tensor([0.0, np.nextafter(1.0, 0.0)], dtype=torch.float64)
    logits = torch.tensor([[-torch.inf, 1.0, 2.0, -torch.inf]]).expand(2, -1)
    assert draw(logits, edges, Settings()).tolist() == [1, 2]


@given(DISTINCT, st.integers(0, 10))
def test_top_k_keeps_the_k_largest(values: list[int], k: int) -> None:
    kept = restrict(torch.tensor([values]) / 4, k, 1.0)[0].isfinite()
    best = sorted(range(len(values)), key=lambda i: -values[i])[: k or len(values)]
    assert set(kept.nonzero().flatten().tolist()) == set(best)


@given(DISTINCT, st.floats(0.01, 0.99))
def test_top_p_keeps_the_smallest_set_of_that_mass(values: list[int], p: float) -> None:
    mass = np.exp(np.array(values) / 4)
    mass /= mass.sum()
    order = sorted(range(len(values)), key=lambda i: -values[i])
    running = np.cumsum(mass[order])
    assume(np.abs(running - p).min() > 1e-4)
    kept = restrict(torch.tensor([values]) / 4, 0, p)[0].isfinite()
    size = int(np.searchsorted(running, p)) + 1
    assert set(kept.nonzero().flatten().tolist()) == set(order[:size])


def test_noise_is_a_function_of_seed_and_sample() -> None:
    rows = noise(3, 0, 10, 5)
    assert torch.equal(noise(3, 4, 3, 5), rows[4:7])
    assert not torch.equal(noise(4, 0, 10, 5), rows)
    assert len(rows.flatten().unique()) == 50
    assert float(rows.min()) >= 0
    assert float(rows.max()) < 1


LANES = 4
LABELS = torch.tensor([0, 1, 2, 0])


def reference(setting: Settings, group: int, labels: Tensor) -> Tensor:
    """The same draws without cache or lanes: whole passes over one sample at a time."""
    prior = prior_network()
    codes = torch.zeros(LANES, 6, dtype=torch.int64)
    for lane in range(LANES):
        numbers = noise(setting.seed, group * LANES + lane, 1, 6)
        for t in range(6):
            conditional = prior(codes[lane : lane + 1], labels[lane : lane + 1])[:, t]
            free = prior(codes[lane : lane + 1], torch.tensor([prior.null_class]))[:, t]
            logits = (1 - setting.guidance) * free + setting.guidance * conditional
            codes[lane, t] = draw(logits, numbers[:, t], setting)[0]
    return codes


@torch.no_grad()
@pytest.mark.parametrize("setting", [Settings(seed=5), Settings(guidance=2.5), Settings(guidance=0.0, top_k=4)])
def test_lanes_with_cache_equal_whole_passes(setting: Settings) -> None:
    sampler = Sampler(prior_network(), setting, LANES)
    for group in (0, 2):
        assert torch.equal(sampler.group(group, LABELS), reference(setting, group, LABELS))


@settings(max_examples=10, deadline=None)
@given(st.permutations([0, 1, 2]), st.integers(0, 3))
def test_a_sample_depends_only_on_its_key_and_label(order: list[int], lane: int) -> None:
    one = Sampler(prior_network(), Settings(guidance=1.5), LANES)
    whole = [one.group(group, LABELS) for group in range(3)]
    other = Sampler(prior_network(), Settings(guidance=1.5), LANES)
    labels = (LABELS + 1) % 3
    labels[lane] = LABELS[lane]
    for group in order:
        assert torch.equal(other.group(group, labels)[lane], whole[group][lane])


def test_groups_and_seeds_differ() -> None:
    sampler = Sampler(prior_network(), Settings(), LANES)
    first = sampler.group(0, LABELS)
    assert not torch.equal(first, sampler.group(1, LABELS))
    assert not torch.equal(first, Sampler(prior_network(), Settings(seed=1), LANES).group(0, LABELS))


def test_bf16_lanes_repeat_and_fit_the_vocabulary() -> None:
    sampler = Sampler(prior_network(), Settings(), LANES, torch.bfloat16)
    codes = sampler.group(0, LABELS)
    assert torch.equal(codes, sampler.group(0, LABELS))
    assert int(codes.min()) >= 0
    assert int(codes.max()) < 11


def test_one_label_a_lane() -> None:
    with pytest.raises(ValueError, match=r"expected 4 labels, one a lane, got \[3\]"):
        Sampler(prior_network(), Settings(), LANES).group(0, LABELS[:3])
