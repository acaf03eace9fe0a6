"""The tokenizer: geometry, ranges, and the one definition of encode (contract 7)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.tiny import quantize_config, tokenizer_network
from vim_core.config import LossConfig, StackConfig
from vim_core.distributed.runtimes.base import CpuRuntime
from vim_core.errors import ConfigError
from vim_core.models.vit_vqgan import Tokenizer, ViTVQGAN, load_tokenizer, model_config
from vim_core.weights.saving import to_bytes

PLAIN = LossConfig(logit_laplace=0.0, perceptual=0.0)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(tokenizer_network())


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(23, 3, 8, 8, generator=torch.Generator().manual_seed(5))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_assembling_patches_gives_the_image_back(patch: int, rows: int, columns: int, batch: int) -> None:
    model = ViTVQGAN(quantize_config(image_size=patch * rows, patch=patch, loss=PLAIN))
    images = torch.rand(batch, 3, patch * rows, patch * columns)
    patches = model._patchify(images)
    assert patches.shape == (batch, rows * columns, patch * patch * 3)
    assert torch.equal(model._unpatchify(patches, (rows, columns)), images)


def test_six_channels_carry_the_logit_laplace_three_the_pixels() -> None:
    images = torch.rand(2, 3, 8, 8)
    six, three = tokenizer_network(), tokenizer_network(loss=PLAIN)
    assert six(images).raw.shape == (2, 6, 8, 8)
    raw = three(images).raw
    assert raw.shape == (2, 3, 8, 8)
    assert torch.equal(three.pixels(raw), raw)


def test_pixels_invert_the_map_of_the_logit_laplace() -> None:
    model, images = tokenizer_network(), torch.rand(2, 3, 8, 8)
    raw = torch.cat([torch.logit(images * 0.8 + 0.1), torch.randn(2, 3, 8, 8)], dim=1)
    torch.testing.assert_close(model.pixels(raw), images, atol=1e-5, rtol=0)


def test_training_pass_and_tokenizer_agree(tokenizer: Tokenizer, images: Tensor) -> None:
    result = tokenizer.model(images)
    codes = tokenizer.encode(images)
    assert torch.equal(result.quantized.codes.view(23, 4), codes)
    decoded = tokenizer.model.pixels(result.raw).clamp(0, 1).detach()
    torch.testing.assert_close(tokenizer.decode(codes), decoded, atol=1e-5, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 23), max_size=5), st.randoms(use_true_random=False))
def test_codes_do_not_depend_on_number_or_neighbours(
    tokenizer: Tokenizer, images: Tensor, cuts: list[int], random: object
) -> None:
    whole = tokenizer.encode(images)
    order = list(range(23))
    random.shuffle(order)  # type: ignore[attr-defined]
    bounds = [0, *sorted(cuts), 23]
    parts = [tokenizer.encode(images[order[a:b]]) for a, b in pairwise(bounds)]
    assert torch.equal(torch.cat(parts), whole[order])


def test_network_only_ever_sees_full_batches(images: Tensor) -> None:
    tokenizer, seen = Tokenizer(tokenizer_network()), []
    tokenizer.model.embed.register_forward_hook(lambda module, given, result: seen.append(len(given[0])))
    tokenizer.model.from_code.register_forward_hook(lambda module, given, result: seen.append(len(given[0])))
    for count in (1, 5, 8):
        tokenizer.decode(tokenizer.encode(images[:count]))
    assert set(seen) == {5}


def test_codes_for_a_training_are_the_same_and_never_leave_the_device(
    tokenizer: Tokenizer, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the operations that would make the host wait for a GPU; in strict fp32, whatever the process uses."""
    ops: list[str] = []
    precisions: list[str] = []

    class Recorded(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            ops.append(str(func))
            return func(*args, **kwargs or {})

    expected, nearest = tokenizer.encode(images), tokenizer.model.codebook.nearest

    def watched(latents: Tensor) -> Tensor:
        precisions.append(torch.get_float32_matmul_precision())
        return nearest(latents)

    monkeypatch.setattr(tokenizer.model.codebook, "nearest", watched)
    torch.set_float32_matmul_precision("high")
    try:
        with Recorded(), torch.autocast("cpu", dtype=torch.bfloat16):  # type: ignore[no-untyped-call]
            codes = tokenizer.encode_on_device(images, CpuRuntime("bf16", 1))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(codes, expected)
    assert set(precisions) == {"highest"}
    assert [op for op in ops if any(word in op for word in ("_local_scalar", "_to_copy", "nonzero", "item"))] == []


def test_codes_lie_in_their_range_and_nothing_gives_nothing(tokenizer: Tokenizer, images: Tensor) -> None:
    codes = tokenizer.encode(images)
    assert codes.dtype is torch.int64
    assert codes.shape == (23, 4)
    assert int(codes.min()) >= 0
    assert int(codes.max()) < tokenizer.vocabulary
    assert len(codes.unique()) > 3
    assert tokenizer.decode(codes).shape == (23, 3, 8, 8)
    assert tokenizer.encode(images[:0]).shape == (0, 4)
    assert tokenizer.decode(codes[:0]).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 8, 8), (2, 3, 8, 4)])
def test_images_of_another_shape_are_refused(tokenizer: Tokenizer, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected images \[N, 3, 8, 8\]"):
        tokenizer.encode(torch.zeros(shape))


def test_round_trip_keeps_settings_and_bits(tokenizer: Tokenizer, images: Tensor, tmp_path: Path) -> None:
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    weights.write_bytes(to_bytes(tokenizer.model))
    config.write_bytes(model_config(tokenizer.model.config))
    loaded = load_tokenizer(str(weights), str(config))
    assert loaded.model.config == tokenizer.model.config
    assert (loaded.grid, loaded.vocabulary, loaded.encode_batch, loaded.image_size) == ((2, 2), 16, 5, 8)
    codes = tokenizer.encode(images)
    assert torch.equal(loaded.encode(images), codes)
    assert torch.equal(loaded.decode(codes), tokenizer.decode(codes))


def test_sine_cosine_positions_are_not_saved_and_need_four_channels() -> None:
    model = tokenizer_network(positions="sincos")
    assert not any("positions" in name for name in model.state_dict())
    assert not any("positions" in name for name, _ in model.named_parameters())
    with pytest.raises(ConfigError, match="divisible by 4, got 18"):
        tokenizer_network(positions="sincos", encoder=StackConfig(blocks=1, heads=2, dim=18, mlp=8))
