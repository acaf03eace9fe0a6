"""Codes and back for images of any size: positions against other libraries, grids, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.support.tiny import enlarge, quantize_config, tokenizer_network
from vim_core.config import LossConfig, StackConfig
from vim_core.layers.transformer import sincos_2d
from vim_core.models.vit_vqgan import TransformerStack, ViTVQGAN

SMALL = StackConfig(blocks=1, heads=2, dim=8, mlp=16)


def images(*size: int, count: int = 3) -> Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (16, 6)])
def test_learned_positions_are_resized_as_pillow_does(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    stack = TransformerStack(SMALL, 8, "learned")
    found = stack.positions_on(grid).detach().view(*grid, 8)
    for channel in range(8):
        picture = Image.fromarray(stack.positions.detach()[:, channel].view(8, 8).numpy(), mode="F")
        expected = np.asarray(picture.resize((grid[1], grid[0]), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(found[..., channel].numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_the_grid_of_training_keeps_its_very_positions(positions: str) -> None:
    stack, x = TransformerStack(SMALL, 3, positions), torch.randn(2, 9, 8)
    assert torch.equal(stack(x), stack(x, (3, 3)))
    assert stack.positions_on((3, 3)) is stack.positions
    assert torch.equal(stack.positions_on((2, 5)), sincos_2d(2, 5, 8)) == (positions == "sincos")


def test_learned_positions_of_another_grid_pass_gradients_on() -> None:
    stack = TransformerStack(SMALL, 3, "learned")
    stack(torch.randn(2, 10, 8), (2, 5)).square().sum().backward()
    assert stack.positions.grad is not None
    assert float(stack.positions.grad.abs().min()) > 0


@pytest.mark.parametrize(("positions", "laplace"), [("learned", 0.1), ("sincos", 0.0)])
@pytest.mark.parametrize("size", [(4, 4), (12, 20)])
def test_codes_and_images_have_the_shape_of_the_input(size: tuple[int, int], laplace: float, positions: str) -> None:
    model = tokenizer_network(positions=positions, loss=LossConfig(logit_laplace=laplace, perceptual=0.0))
    grid = size[0] // 4, size[1] // 4
    codes = model.tokenize(images(*size))
    assert codes.shape == (3, grid[0] * grid[1])
    assert codes.dtype is torch.int64
    assert not codes.requires_grad
    decoded = model.detokenize(codes, None if grid == (1, 1) else grid)
    assert decoded.shape == (3, 3, *size)
    assert decoded.dtype is torch.float32
    assert float(decoded.min()) >= 0
    assert float(decoded.max()) <= 1
    trained = model(images(*size))
    assert torch.equal(trained.quantized.codes.view_as(codes), codes)
    torch.testing.assert_close(model.pixels(trained.raw).clamp(0, 1), decoded, atol=1e-5, rtol=1e-4)


def test_what_does_not_fit_is_refused() -> None:
    model = tokenizer_network()
    for shape in [(1, 3, 8, 10), (1, 1, 8, 8), (3, 8, 8)]:
        with pytest.raises(ValueError, match="sides divisible by 4, got"):
            model.tokenize(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"floats in \[0, 1\], got torch.uint8"):
        model.tokenize(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="6 codes do not form a square: pass grid"):
        model.detokenize(torch.zeros(1, 6, dtype=torch.int64))
    with pytest.raises(ValueError, match="grid 2x2 does not hold 6 codes"):
        model.detokenize(torch.zeros(1, 6, dtype=torch.int64), (2, 2))


def library_encoder(model: ViTVQGAN) -> tuple[nn.Conv2d, nn.TransformerEncoder]:
    """torch's own layers with the weights of the encoder: a strided convolution and a pre-norm stack."""
    stack, patch = model.config.encoder, model.config.patch
    patches = nn.Conv2d(3, stack.dim, patch, patch)
    weight = model.embed.weight.view(stack.dim, patch, patch, 3).permute(0, 3, 1, 2)
    patches.load_state_dict({"weight": weight, "bias": model.embed.bias})
    gelu: Any = nn.GELU("tanh")
    layer = nn.TransformerEncoderLayer(stack.dim, stack.heads, stack.mlp, 0.0, gelu, batch_first=True, norm_first=True)
    other = nn.TransformerEncoder(layer, stack.blocks, nn.LayerNorm(stack.dim), enable_nested_tensor=False)
    names = {"self_attn.in_proj_": "attention.qkv", "self_attn.out_proj.": "attention.out", "linear1.": "mlp.up"}
    names |= {"linear2.": "mlp.down", "norm1.": "norm1", "norm2.": "norm2"}
    state = {f"norm.{part}": getattr(model.encoder.norm, part) for part in ("weight", "bias")}
    for index, block in enumerate(model.encoder.blocks):
        for theirs, ours in names.items():
            module = block.get_submodule(ours)
            state |= {f"layers.{index}.{theirs}{part}": getattr(module, part) for part in ("weight", "bias")}
    other.load_state_dict(state)
    return patches, other


@pytest.mark.parametrize("size", [(8, 8), (12, 20)])
def test_the_whole_encoder_equals_a_vit_of_library_layers(size: tuple[int, int]) -> None:
    model = ViTVQGAN(quantize_config(encoder=StackConfig(blocks=3, heads=4, dim=16, mlp=24)))
    enlarge(model)
    patches, other = library_encoder(model)
    given, grid = images(*size), (size[0] // 4, size[1] // 4)
    x = patches(given * 2 - 1).flatten(2).mT + model.encoder.positions_on(grid)
    found = model.encoder(model.embed(model._patchify(given * 2 - 1)), grid)
    torch.testing.assert_close(found, other(x), atol=1e-4, rtol=1e-4)
