"""Sampling: the right distribution, the right support, and samples that depend on nothing but their key."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from tests.support.tiny import prior_network
from vim_core.errors import ConfigError
from vim_core.layers.transformer import Linear
from vim_core.sampling import lanes
from vim_core.sampling.lanes import CastLinear, Lanes
from vim_core.sampling.logits import SamplingSettings, filter_logits, guidance_scales, sample_codes, sampling_noise
from vim_core.sampling.sampler import Sampler, attention_span

LOGITS = torch.tensor([0.3, -1.0, 2.0, 0.0, 1.1, -0.4])
DISTINCT = st.lists(st.integers(-40, 40), min_size=2, max_size=9, unique=True)


def uniform(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(count))


@pytest.mark.parametrize(
    "fields", [{}, {"temperature": 0.5}, {"top_p": 0.8}, {"top_k": 4, "top_p": 0.9}, {"top_k": 2, "temperature": 2.0}]
)
def test_draws_follow_the_softmax_within_the_filters(fields: dict[str, Any]) -> None:
    setting, count = SamplingSettings(**fields), 20_000
    mass = np.exp(LOGITS.double().numpy() / setting.temperature)
    order = np.argsort(-mass)[: setting.top_k or None]
    kept = np.zeros(6)
    kept[order] = mass[order] / mass[order].sum()
    before = np.cumsum(kept[order]) - kept[order]
    kept[order[before >= setting.top_p]] = 0
    observed = torch.bincount(sample_codes(LOGITS.expand(count, -1), uniform(count), setting), minlength=6).numpy()
    assert observed[kept == 0].sum() == 0
    expected = kept[kept > 0] * count / kept.sum()
    assert chisquare(observed[kept > 0], expected).pvalue > 1e-3


def test_low_temperature_is_greedy() -> None:
    logits = torch.randn(500, 20)
    assert torch.equal(sample_codes(logits, uniform(500), SamplingSettings(temperature=1e-6)), logits.argmax(1))


def test_extreme_uniform_numbers_stay_in_the_support() -> None:
    edges = torch.tensor([0.0, np.nextafter(1.0, 0.0)], dtype=torch.float64)
    logits = torch.tensor([[-torch.inf, 1.0, 2.0, -torch.inf]]).expand(2, -1)
    assert sample_codes(logits, edges, SamplingSettings()).tolist() == [1, 2]


@given(DISTINCT, st.integers(0, 10))
def test_top_k_keeps_the_k_largest(values: list[int], k: int) -> None:
    kept = filter_logits(torch.tensor([values]) / 4, k, 1.0)[0].isfinite()
    best = sorted(range(len(values)), key=lambda i: -values[i])[: k or len(values)]
    assert set(kept.nonzero().flatten().tolist()) == set(best)


@given(DISTINCT, st.floats(0.01, 0.99))
def test_top_p_keeps_the_smallest_set_of_that_mass(values: list[int], p: float) -> None:
    mass = np.exp(np.array(values) / 4)
    mass /= mass.sum()
    order = sorted(range(len(values)), key=lambda i: -values[i])
    running = np.cumsum(mass[order])
    assume(np.abs(running - p).min() > 1e-4)
    kept = filter_logits(torch.tensor([values]) / 4, 0, p)[0].isfinite()
    size = int(np.searchsorted(running, p)) + 1
    assert set(kept.nonzero().flatten().tolist()) == set(order[:size])


def test_noise_is_a_function_of_seed_and_sample() -> None:
    rows = sampling_noise(3, 0, 10, 5)
    assert torch.equal(sampling_noise(3, 4, 3, 5), rows[4:7])
    assert not torch.equal(sampling_noise(4, 0, 10, 5), rows)
    assert len(rows.flatten().unique()) == 50
    assert float(rows.min()) >= 0
    assert float(rows.max()) < 1


LANES = 4
LABELS = torch.tensor([0, 1, 2, 0])


def reference(setting: SamplingSettings, group: int, labels: Tensor) -> Tensor:
    """The same draws without cache or lanes: whole passes over one sample at a time."""
    prior = prior_network()
    codes = torch.zeros(LANES, 6, dtype=torch.int64)
    for lane in range(LANES):
        numbers = sampling_noise(setting.seed, group * LANES + lane, 1, 6)
        for t in range(6):
            conditional = prior(codes[lane : lane + 1], labels[lane : lane + 1])[:, t]
            free = prior(codes[lane : lane + 1], torch.tensor([prior.null_class]))[:, t]
            logits = (1 - setting.guidance) * free + setting.guidance * conditional
            codes[lane, t] = sample_codes(logits, numbers[:, t], setting)[0]
    return codes


@torch.no_grad()
@pytest.mark.parametrize(
    "setting", [SamplingSettings(seed=5), SamplingSettings(guidance=2.5), SamplingSettings(guidance=0.0, top_k=4)]
)
def test_lanes_with_cache_equal_whole_passes(setting: SamplingSettings) -> None:
    sampler = Sampler(prior_network(null_trained=True), setting, LANES)
    for group in (0, 2):
        assert torch.equal(sampler.group(group, LABELS), reference(setting, group, LABELS))


@pytest.fixture(scope="module")
def guided() -> tuple[Sampler, list[Tensor]]:
    """A guided sampler, and three groups that another one like it drew."""
    one, other = (Sampler(prior_network(null_trained=True), SamplingSettings(guidance=1.5), LANES) for _ in range(2))
    return one, [other.group(group, LABELS) for group in range(3)]


@settings(max_examples=10, deadline=None)
@given(order=st.permutations([0, 1, 2]), lane=st.integers(0, 3))
def test_a_sample_depends_only_on_its_key_and_label(
    guided: tuple[Sampler, list[Tensor]], order: list[int], lane: int
) -> None:
    sampler, whole = guided
    labels = (LABELS + 1) % 3
    labels[lane] = LABELS[lane]
    for group in order:
        assert torch.equal(sampler.group(group, labels)[lane], whole[group][lane])


@torch.no_grad()
@pytest.mark.parametrize("variant", ["paper", "modern"])
@pytest.mark.parametrize("given", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_with_cache_equal_the_whole_pass(variant: str, given: int, dtype: torch.dtype) -> None:
    prior = prior_network(variant=variant)
    lanes = Lanes(prior, SamplingSettings(), LANES, dtype)
    codes = torch.from_numpy(np.random.default_rng(1).integers(0, 11, (LANES, given)))
    numbers = sampling_noise(0, 0, LANES, 6)
    lanes.start(LABELS, numbers, codes if given else None)
    found = []
    for position in range(given, 6):
        found.append(lanes.logits(position + 1))
        lanes.step(position + 1)
    assert torch.equal(lanes.codes[:, :given], codes)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        whole = prior(lanes.codes, LABELS)[:, given:].float()
    exact = dtype is torch.float32
    torch.testing.assert_close(torch.stack(found, 1), whole, atol=1e-5 if exact else 0.15, rtol=1e-5 if exact else 0.05)


def test_attention_over_the_rest_of_the_cache_changes_nothing() -> None:
    """Devices that want few shapes read places behind a mask, which an earlier group may have filled."""
    shortest, wide = (Sampler(prior_network(), SamplingSettings(), LANES) for _ in range(2))
    wide._lanes.masked = True
    wide._step = lambda position: wide._lanes.step(attention_span(position, 6, chunk=4))
    assert [attention_span(position, 6, chunk=4) for position in range(6)] == [4, 4, 4, 4, 6, 6]
    for group in (0, 1):
        assert torch.equal(wide.group(group, LABELS), shortest.group(group, LABELS))


def test_draws_of_a_network_follow_its_distribution() -> None:
    """Every image of two codes is as frequent as the product of its softmaxes says."""
    prior, count, guided = (
        prior_network(grid=(1, 2), null_trained=True),
        4096,
        SamplingSettings(guidance=1.5, temperature=2.0),
    )
    codes = Sampler(prior, guided, count).group(0, torch.ones(count, dtype=torch.int64))
    every = torch.cartesian_prod(torch.arange(11), torch.arange(11))
    with torch.no_grad():
        known, free = (prior(every, torch.full((121,), label)).double() for label in (1, prior.null_class))
    likely = ((free + 1.5 * (known - free)) / 2.0).softmax(-1).gather(2, every[:, :, None])[..., 0].prod(1)
    expected, observed = likely.numpy() * count, torch.bincount(codes[:, 0] * 11 + codes[:, 1], minlength=121).numpy()
    rare = expected < 5
    expected = np.append(expected[~rare], expected[rare].sum())
    observed = np.append(observed[~rare], observed[rare].sum())
    assert len(expected) > 10
    assert chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3


def test_an_image_goes_on_from_given_codes_as_if_they_had_been_drawn(guided: tuple[Sampler, list[Tensor]]) -> None:
    sampler, whole = guided
    for group, count in ((0, 3), (1, 4), (0, 6), (1, 0), (0, 1)):
        assert torch.equal(sampler.group(group, LABELS, whole[group][:, :count]), whole[group])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_priors_weights_stay_as_they_are(dtype: torch.dtype) -> None:
    prior = prior_network().train()
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    Sampler(prior, SamplingSettings(), LANES, dtype).group(0, LABELS)
    assert prior.training
    assert list(before) == list(prior.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in prior.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", ["paper", "modern"])
def test_layers_without_onednn_compute_the_same(
    dtype: torch.dtype, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior, x = prior_network(variant=variant), torch.randn(LANES, 1, 16)
    packed = lanes.prepare_for_decoding(prior, dtype, LANES)
    monkeypatch.setattr(lanes, "packing_available", lambda device, dtype: False)
    plain = lanes.prepare_for_decoding(prior, dtype, LANES)
    assert isinstance(plain.head, CastLinear if dtype is torch.bfloat16 else Linear)
    tolerance = 1e-5 if dtype is torch.float32 else 0.05
    torch.testing.assert_close(packed.head(x), plain.head(x), atol=tolerance, rtol=tolerance)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        assert torch.equal(plain.head(x), prior.head(x))


@pytest.mark.parametrize("power", [1.0, 2.5])
def test_guidance_schedules_in_closed_form(power: float) -> None:
    def scales(schedule: str) -> list[float]:
        return guidance_scales(
            SamplingSettings(guidance=5.0, guidance_schedule=schedule, guidance_power=power), 4
        ).tolist()

    assert scales("constant") == [5.0] * 4
    assert scales("linear") == pytest.approx([1 + 4 * (n / 4) ** power for n in (1, 2, 3, 4)])
    ramp = [(1 - math.cos(math.pi * (n / 4) ** power)) / 2 for n in (0, 1, 2, 3)]
    assert scales("cosine") == pytest.approx([1 + 4 * share for share in ramp])
    with pytest.raises(ValueError, match="guidance_schedule='square': must be one of constant, linear, cosine"):
        scales("square")


@torch.no_grad()
def test_a_schedule_guides_each_code_by_its_own_scale() -> None:
    prior, labels = prior_network(null_trained=True), torch.zeros(LANES, dtype=torch.int64)
    lanes = Lanes(prior, SamplingSettings(guidance=3.0, guidance_schedule="cosine"), LANES, torch.float32)
    lanes.start(labels, sampling_noise(0, 0, LANES, 6))
    for position, scale in enumerate(guidance_scales(lanes.settings, 6).tolist()):
        logits = lanes.logits(position + 1)
        known, free = (prior(lanes.codes, torch.full_like(labels, to))[:, position] for to in (0, prior.null_class))
        torch.testing.assert_close(logits, free + scale * (known - free), atol=1e-4, rtol=1e-4)
        lanes.step(position + 1)


@pytest.mark.parametrize("fields", [{"null_trained": False}, {"null_trained": True, "classes": 0}])
def test_guidance_needs_classes_and_a_trained_null_class(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"guidance=2\.0: needs a class-conditional prior trained with"):
        Sampler(prior_network(**fields), SamplingSettings(guidance=2.0), LANES)


def test_labels_and_given_codes_fit_lanes_and_image() -> None:
    sampler = Sampler(prior_network(), SamplingSettings(), LANES)
    for shape in ((3, 2), (4, 7), (4,)):
        with pytest.raises(ValueError, match=r"expected given codes \[4, at most 6\]"):
            sampler.group(0, LABELS, torch.zeros(shape, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"expected 4 labels, one a lane, got \[3\]"):
        sampler.group(0, LABELS[:3])
