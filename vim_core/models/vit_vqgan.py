"""ViT-VQGAN: transformer encoder, factorized codebook, transformer decoder (paper section 3)."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vim_core.config import QuantizeConfig, StackConfig
from vim_core.distributed.products import strict
from vim_core.distributed.runtimes.base import Runtime
from vim_core.layers.transformer import Block, LayerNorm, Linear, TanhHead, init_weights, run_block, sincos_2d
from vim_core.losses.likelihood import EPSILON, laplace_mean
from vim_core.models.codebook import Codebook, Quantized
from vim_core.models.sizes import tokenizer_settings
from vim_core.weights.saving import allocate_and_load, read_config

Grid = tuple[int, int]
"""Rows and columns of tokens."""


class TransformerStack(nn.Module):
    """Positions, transformer blocks and the final norm."""

    positions: Tensor

    def __init__(
        self, stack: StackConfig, grid: int, positions: str, recompute: bool = False, tanh: bool = False
    ) -> None:
        super().__init__()
        self.grid = (grid, grid)
        self.dim = stack.dim
        self.learned = positions == "learned"
        self.recompute = recompute
        table = torch.empty(grid * grid, stack.dim)
        if self.learned:
            self.positions = nn.Parameter(table)
            self.reset_parameters()
        else:
            self.register_buffer("positions", table, persistent=False)
            self.fill_buffers()
        self.blocks = nn.ModuleList(Block(stack, tanh=tanh) for _ in range(stack.blocks))
        self.norm = LayerNorm(stack.dim)

    def reset_parameters(self) -> None:
        """Draw the learned positions."""
        if self.learned and not self.positions.is_meta:
            with torch.no_grad():
                self.positions.copy_(torch.randn_like(self.positions) * 0.02)

    def fill_buffers(self) -> None:
        """Compute the fixed positions; does nothing on the meta device."""
        if not self.learned and not self.positions.is_meta:
            self.positions.copy_(sincos_2d(*self.grid, self.dim))

    def positions_on(self, grid: Grid) -> Tensor:
        """Position vectors [h * w, D] of another grid.

        Learned ones are interpolated (bicubic, antialiased, over the whole image), fixed ones computed by formula.
        """
        if grid == self.grid:
            return self.positions
        if not self.learned:
            return sincos_2d(*grid, self.dim).to(self.positions)
        table = self.positions.float().T.reshape(1, self.dim, *self.grid)  # [1, D, H, W]
        resized = F.interpolate(table, size=grid, mode="bicubic", antialias=True)  # [1, D, h, w]
        return resized.flatten(2)[0].T.to(self.positions.dtype)

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """[B, T, D] -> [B, T, D], the tokens in raster order over `grid` (default: the grid of training)."""
        x = x + self.positions_on(grid or self.grid)
        for block in self.blocks:
            x = run_block(block, x, self.recompute)
        return self.norm(x)  # type: ignore[no-any-return]


@dataclass
class Reconstruction:
    """Result of a training pass: raw decoder output [B, C, H, W] and that of the quantizer."""

    raw: Tensor
    quantized: Quantized


class ViTVQGAN(nn.Module):
    """The tokenizer network; images are [B, 3, S, S] in [0, 1], S the size it is trained at.

    Images of any other size that the patch divides work too, with positions made for their grid. With a logit-laplace
    term the decoder has six channels (mean and log-scale of each logit), else three.
    """

    draw_order = nn.Module.modules

    def __init__(self, config: QuantizeConfig) -> None:
        super().__init__()
        self.config = config
        self.grid = config.image_size // config.patch
        pixels = config.patch * config.patch * 3
        self.out_channels = 6 if config.loss.logit_laplace > 0 else 3
        encoder, decoder, code_dim = config.encoder, config.decoder, config.codebook.dim
        self.embed = Linear(pixels, encoder.dim)
        tanh_blocks = config.tanh == "blocks"
        self.encoder = TransformerStack(encoder, self.grid, config.positions, config.recompute, tanh_blocks)
        head = nn.Identity() if tanh_blocks else TanhHead(encoder.dim, encoder.mlp, encoder.dim)
        self.encoder_head: nn.Module = head
        self.to_code = Linear(encoder.dim, code_dim)
        self.codebook = Codebook(config.codebook)
        self.from_code = Linear(code_dim, decoder.dim)
        self.decoder = TransformerStack(decoder, self.grid, config.positions, config.recompute, tanh_blocks)
        out = config.patch * config.patch * self.out_channels
        self.decoder_head: nn.Module = (
            Linear(decoder.dim, out) if tanh_blocks else TanhHead(decoder.dim, decoder.mlp, out)
        )
        self.apply(init_weights)

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> ViTVQGAN:
        """A tokenizer of one of the paper's sizes: `small`, `base`, `large` or `small-large`.

        Args:
            name: sizes of encoder and decoder (Table 2); `small-large` is a small encoder with a large decoder.
            **overrides: see `sizes.tokenizer_settings`, for instance `image_size=128` or `code_dim=8`.

        Raises:
            ConfigError: there is no such preset, or a value is out of its range.
        """
        return cls(tokenizer_settings(name, **overrides))

    def grid_of(self, images: Tensor) -> Grid:
        """Rows and columns of patches in images [B, 3, H, W].

        Raises:
            ValueError: they are not of this shape, or the patch does not divide their sides.
        """
        p = self.config.patch
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % p or images.shape[3] % p:
            raise ValueError(f"expected images [B, 3, H, W] with sides divisible by {p}, got {list(images.shape)}")
        return images.shape[2] // p, images.shape[3] // p

    def _patchify(self, images: Tensor) -> Tensor:
        """[B, 3, h * p, w * p] -> [B, h * w, p * p * 3], patches in raster order."""
        p, (h, w) = self.config.patch, self.grid_of(images)
        x = images.reshape(-1, 3, h, p, w, p).permute(0, 2, 4, 3, 5, 1)  # [B, h, w, p, p, 3]
        return x.reshape(-1, h * w, p * p * 3)

    def _unpatchify(self, patches: Tensor, grid: Grid) -> Tensor:
        """[B, h * w, p * p * C] -> [B, C, h * p, w * p]."""
        p, (h, w) = self.config.patch, grid
        x = patches.reshape(-1, h, w, p, p, self.out_channels).permute(0, 5, 1, 3, 2, 4)  # [B, C, h, p, w, p]
        return x.reshape(-1, self.out_channels, h * p, w * p)

    def latents(self, images: Tensor) -> Tensor:
        """Images to latents before lookup [B, T, code_dim]."""
        x = self.embed(self._patchify(images * 2 - 1))  # [B, T, D]
        return self.to_code(self.encoder_head(self.encoder(x, self.grid_of(images))))  # type: ignore[no-any-return]

    def decode_vectors(self, vectors: Tensor, grid: Grid | None = None) -> Tensor:
        """Code vectors [B, T, code_dim] to raw output [B, C, H, W]; `grid` is that of training unless given."""
        grid = grid or (self.grid, self.grid)
        return self._unpatchify(self.decoder_head(self.decoder(self.from_code(vectors), grid)), grid)

    def forward(self, images: Tensor) -> Reconstruction:
        """A training pass over images [B, 3, S, S] in [0, 1]."""
        latents = self.latents(images)  # [B, T, code_dim]
        quantized = self.codebook(latents.flatten(0, 1))
        vectors = quantized.vectors.view_as(latents)  # [B, T, code_dim]
        return Reconstruction(self.decode_vectors(vectors, self.grid_of(images)).float(), quantized)

    @torch.no_grad()
    def tokenize(self, images: Tensor) -> Tensor:
        """Images to codes, in the network's own precision; stored codes come from `Tokenizer` alone.

        Args:
            images: [B, 3, H, W] floats in [0, 1], the sides divisible by the patch.

        Returns:
            Codes int64 [B, T] in raster order, T = H * W / patch^2.

        Raises:
            ValueError: the images are of another type or shape.
        """
        if not images.is_floating_point():
            raise ValueError(f"expected images as floats in [0, 1], got {images.dtype}")
        latents = self.latents(images.to(self.embed.weight.dtype))
        return self.codebook.nearest(latents.flatten(0, 1)).view(latents.shape[:2])

    @torch.no_grad()
    def detokenize(self, codes: Tensor, grid: Grid | None = None) -> Tensor:
        """Codes [B, T] to images [B, 3, H, W] in [0, 1], fp32.

        Args:
            codes: integers in raster order.
            grid: rows and columns of codes, by default a square.

        Raises:
            ValueError: T does not fit the grid, or has no square root and no grid is given.
        """
        tokens = codes.shape[1]
        side = math.isqrt(tokens)
        if grid is None and side * side != tokens:
            raise ValueError(f"{tokens} codes do not form a square: pass grid=(rows, columns)")
        rows, columns = grid or (side, side)
        if rows * columns != tokens:
            raise ValueError(f"grid {rows}x{columns} does not hold {tokens} codes")
        vectors = self.codebook.vectors(codes.long()).to(self.from_code.weight.dtype)
        return self.pixels(self.decode_vectors(vectors, (rows, columns)).float()).clamp(0, 1)

    def pixels(self, raw: Tensor) -> Tensor:
        """Raw decoder output to images [B, 3, S, S], not clamped (losses need the gradient outside [0, 1])."""
        if self.out_channels == 3:
            return raw
        return (torch.sigmoid(laplace_mean(raw)) - EPSILON) / (1 - 2 * EPSILON)


class Tokenizer:
    """The one numeric definition of encode and decode (contract 7): fp32, eager, padded to `encode_batch`.

    A fixed batch shape makes the codes of an image independent of its neighbours' number.
    """

    def __init__(self, model: ViTVQGAN, device: str | torch.device = "cpu") -> None:
        self.model = model.to(device).float().eval()
        self.device = torch.device(device)
        self.image_size = model.config.image_size
        self.grid = (model.grid, model.grid)
        self.vocabulary = model.config.codebook.codes
        self.encode_batch = model.config.encode_batch

    def _padded(self, x: Tensor) -> Tensor:
        missing = self.encode_batch - len(x)
        return torch.cat([x, x.new_zeros(missing, *x.shape[1:])]) if missing else x

    @strict
    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images [N, 3, S, S] in [0, 1] to codes int64 [N, T] on the CPU.

        Raises:
            ValueError: the images have another size or shape.
        """
        if images.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(f"expected images [N, 3, {self.image_size}, {self.image_size}], got {list(images.shape)}")
        parts = []
        for chunk in images.split(self.encode_batch):
            codes = self._nearest_codes(self._padded(chunk.float()).to(self.device))  # [encode_batch, T]
            # Cut on the CPU: on XLA each length would be another program.
            parts.append(codes.cpu()[: len(chunk)])
        tokens = self.grid[0] * self.grid[1]
        return torch.cat(parts) if parts else torch.empty(0, tokens, dtype=torch.int64)

    @strict
    @torch.no_grad()
    def encode_on_device(self, images: Tensor, runtime: Runtime) -> Tensor:
        """Images [b, 3, S, S] in [0, 1], as `Runtime.to_device` laid them out, to codes int64 [b, T] on that device.

        The codes are those of `encode`; the host waits for nothing.
        """
        return runtime.map_rows(self._nearest_codes, images, self.encode_batch)

    def _nearest_codes(self, images: Tensor) -> Tensor:
        """Codes int64 [encode_batch, T] of images [encode_batch, 3, S, S] on the device."""
        latents = self.model.latents(images.float())  # [encode_batch, T, code_dim]
        return self.model.codebook.nearest(latents.flatten(0, 1)).view(latents.shape[:2])

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes [N, T] to images [N, 3, S, S] in [0, 1] on the CPU."""
        parts = []
        for chunk in codes.long().split(self.encode_batch):
            vectors = self.model.codebook.vectors(self._padded(chunk).to(self.device))  # [encode_batch, T, code_dim]
            images = self.model.pixels(self.model.decode_vectors(vectors)).clamp(0, 1)  # [encode_batch, 3, S, S]
            parts.append(images[: len(chunk)].cpu())
        size = self.image_size
        return torch.cat(parts) if parts else torch.empty(0, 3, size, size)


def model_config(config: QuantizeConfig) -> bytes:
    """The settings that rebuild the network, as JSON."""
    return json.dumps({"kind": "vit_vqgan", "quantize": asdict(config)}, indent=1, sort_keys=True).encode()


def load_network(weights_uri: str, config_uri: str, device: str = "cpu") -> ViTVQGAN:
    """Rebuild a trained tokenizer's network; loading is strict.

    Raises:
        DataError: the files are missing or do not fit each other.
    """
    config = read_config(config_uri, "vit_vqgan", "quantize", QuantizeConfig)
    with torch.device("meta"):
        model = ViTVQGAN(config)
    allocate_and_load(model, weights_uri, device)
    return model


def load_tokenizer(weights_uri: str, config_uri: str, device: str = "cpu") -> Tokenizer:
    """Rebuild a trained tokenizer; see `load_network`."""
    return Tokenizer(load_network(weights_uri, config_uri, device), device)
