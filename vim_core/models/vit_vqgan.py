"""ViT-VQGAN: transformer encoder, factorized codebook, transformer decoder (paper section 3)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from vim_core.config import QuantizeConfig, StackConfig
from vim_core.losses import EPSILON, laplace_mean
from vim_core.models.codebook import Codebook, Quantized
from vim_core.models.layers import Block, TanhHead, init_weights, sincos_2d
from vim_core.models.saving import load_into, read_config


class Stack(nn.Module):
    """Positions, transformer blocks and the final norm."""

    positions: Tensor

    def __init__(self, stack: StackConfig, grid: int, positions: str) -> None:
        super().__init__()
        if positions == "learned":
            self.positions = nn.Parameter(torch.randn(grid * grid, stack.dim) * 0.02)
        else:
            self.register_buffer("positions", sincos_2d(grid, grid, stack.dim), persistent=False)
        self.blocks = nn.ModuleList(Block(stack) for _ in range(stack.blocks))
        self.norm = nn.LayerNorm(stack.dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        x = x + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)  # type: ignore[no-any-return]


@dataclass
class Reconstruction:
    """A training pass: raw decoder output [B, C, H, W] and what the quantizer said."""

    raw: Tensor
    quantized: Quantized


class ViTVQGAN(nn.Module):
    """The tokenizer network; images are [B, 3, S, S] in [0, 1], S fixed by the positions.

    With a logit-laplace term the decoder has six channels (mean and log-scale of each logit), else three.
    """

    def __init__(self, config: QuantizeConfig) -> None:
        super().__init__()
        self.config = config
        self.grid = config.image_size // config.patch
        pixels = config.patch * config.patch * 3
        self.out_channels = 6 if config.loss.logit_laplace > 0 else 3
        encoder, decoder, code_dim = config.encoder, config.decoder, config.codebook.dim
        self.embed = nn.Linear(pixels, encoder.dim)
        self.encoder = Stack(encoder, self.grid, config.positions)
        self.encoder_head = TanhHead(encoder.dim, encoder.mlp, encoder.dim)
        self.to_code = nn.Linear(encoder.dim, code_dim)
        self.codebook = Codebook(config.codebook)
        self.from_code = nn.Linear(code_dim, decoder.dim)
        self.decoder = Stack(decoder, self.grid, config.positions)
        self.decoder_head = TanhHead(decoder.dim, decoder.mlp, config.patch * config.patch * self.out_channels)
        self.apply(init_weights)

    def _patches(self, images: Tensor) -> Tensor:
        batch, channels, _, _ = images.shape
        p, g = self.config.patch, self.grid
        x = images.reshape(batch, channels, g, p, g, p).permute(0, 2, 4, 3, 5, 1)
        return x.reshape(batch, g * g, p * p * channels)

    def _assemble(self, patches: Tensor) -> Tensor:
        p, g = self.config.patch, self.grid
        x = patches.reshape(-1, g, g, p, p, self.out_channels).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(-1, self.out_channels, g * p, g * p)

    def latents(self, images: Tensor) -> Tensor:
        """Images to latents before lookup [B, T, code_dim]."""
        x = self.embed(self._patches(images * 2 - 1))
        return self.to_code(self.encoder_head(self.encoder(x)))  # type: ignore[no-any-return]

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """Code vectors [B, T, code_dim] to the decoder's raw output [B, C, S, S]."""
        return self._assemble(self.decoder_head(self.decoder(self.from_code(vectors))))

    def forward(self, images: Tensor) -> Reconstruction:
        """A training pass over images [B, 3, S, S] in [0, 1]."""
        latents = self.latents(images)
        quantized = self.codebook(latents.flatten(0, 1))
        vectors = quantized.vectors.view_as(latents)
        return Reconstruction(self.decode_vectors(vectors).float(), quantized)

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

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Images [N, 3, S, S] in [0, 1] to codes int64 [N, T] on the CPU.

        Raises:
            ValueError: the images have another size or shape.
        """
        if images.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(f"expected images [N, 3, {self.image_size}, {self.image_size}], got {list(images.shape)}")
        parts = []
        for chunk in images.split(self.encode_batch):
            latents = self.model.latents(self._padded(chunk.float()).to(self.device))
            codes = self.model.codebook.nearest(latents.flatten(0, 1)).view(self.encode_batch, -1)
            parts.append(codes[: len(chunk)].cpu())
        tokens = self.grid[0] * self.grid[1]
        return torch.cat(parts) if parts else torch.empty(0, tokens, dtype=torch.int64)

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes [N, T] to images [N, 3, S, S] in [0, 1] on the CPU."""
        parts = []
        for chunk in codes.long().split(self.encode_batch):
            vectors = self.model.codebook.vectors(self._padded(chunk).to(self.device))
            images = self.model.pixels(self.model.decode_vectors(vectors)).clamp(0, 1)
            parts.append(images[: len(chunk)].cpu())
        size = self.image_size
        return torch.cat(parts) if parts else torch.empty(0, 3, size, size)


def model_config(config: QuantizeConfig) -> bytes:
    """The settings that rebuild the network, as JSON."""
    return json.dumps({"kind": "vit_vqgan", "quantize": asdict(config)}, indent=1, sort_keys=True).encode()


def load_tokenizer(weights_uri: str, config_uri: str, device: str = "cpu") -> Tokenizer:
    """Rebuild a trained tokenizer; loading is strict.

    Raises:
        DataError: the files are missing or do not fit each other.
    """
    model = ViTVQGAN(read_config(config_uri, "vit_vqgan", "quantize", QuantizeConfig))
    load_into(model, weights_uri)
    return Tokenizer(model, device)
