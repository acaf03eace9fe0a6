"""The straightforward ViT-VQGAN training step that VIM is measured against.

The same arithmetic as `vim_core` in the plainest modules: explicit attention with its [T, T] matrix, a distance matrix
for the lookup, torch's AdamW as it comes. Parameter names are ViTVQGAN's: a test shows that both compute the same.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vim_core.config import QuantizeConfig, StackConfig
from vim_core.models.discriminator import StyleGANDiscriminator


class PlainAttention(nn.Module):
    """softmax(q k^T / sqrt(d)) v, every matrix kept."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        batch, tokens, dim = x.shape
        split = (batch, tokens, self.heads, dim // self.heads)
        q, k, v = (part.view(split).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        weights = (q @ k.transpose(-2, -1) / math.sqrt(dim // self.heads)).softmax(dim=-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, dim))  # type: ignore[no-any-return]


class PlainMlp(nn.Module):
    """Two layers and a GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, hidden)
        self.gelu = nn.GELU("tanh")
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        return self.down(self.gelu(self.up(x)))  # type: ignore[no-any-return]


class PlainBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, stack: StackConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(stack.dim)
        self.attention = PlainAttention(stack.dim, stack.heads)
        self.norm2 = nn.LayerNorm(stack.dim)
        self.mlp = PlainMlp(stack.dim, stack.mlp)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class PlainStack(nn.Module):
    """Learned positions, blocks, norm."""

    def __init__(self, stack: StackConfig, tokens: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(tokens, stack.dim) * 0.02)
        self.blocks = nn.ModuleList(PlainBlock(stack) for _ in range(stack.blocks))
        self.norm = nn.LayerNorm(stack.dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        x = x + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)  # type: ignore[no-any-return]


class PlainHead(nn.Module):
    """Two layers with one tanh between them."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, out]."""
        return self.down(torch.tanh(self.up(x)))  # type: ignore[no-any-return]


class PlainCodebook(nn.Module):
    """Nearest entry by the whole matrix of squared distances, l2-normalised on both sides; straight-through."""

    usage: Tensor

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(codes, dim))
        self.register_buffer("usage", torch.full((codes,), 1.0 / codes))

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors [N, code_dim], codebook loss, commitment loss for latents [N, code_dim]."""
        z, entries = F.normalize(latents.float(), dim=-1), F.normalize(self.weight, dim=-1)
        distance = z.square().sum(1, keepdim=True) + entries.square().sum(1) - 2 * z @ entries.t()
        chosen = entries[distance.argmin(dim=1)]
        return z + (chosen - z).detach(), F.mse_loss(chosen, z.detach()), F.mse_loss(z, chosen.detach())


class PlainViTVQGAN(nn.Module):
    """The tokenizer; images [B, 3, S, S] in [0, 1]."""

    def __init__(self, config: QuantizeConfig) -> None:
        super().__init__()
        self.patch, self.grid = config.patch, config.image_size // config.patch
        encoder, decoder, code_dim = config.encoder, config.decoder, config.codebook.dim
        self.embed = nn.Linear(self.patch**2 * 3, encoder.dim)
        self.encoder = PlainStack(encoder, self.grid**2)
        self.encoder_head = PlainHead(encoder.dim, encoder.mlp, encoder.dim)
        self.to_code = nn.Linear(encoder.dim, code_dim)
        self.codebook = PlainCodebook(config.codebook.codes, code_dim)
        self.from_code = nn.Linear(code_dim, decoder.dim)
        self.decoder = PlainStack(decoder, self.grid**2)
        self.decoder_head = PlainHead(decoder.dim, decoder.mlp, self.patch**2 * 6)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Raw output [B, 6, S, S], codebook loss, commitment loss."""
        batch, side, p, g = len(images), self.grid * self.patch, self.patch, self.grid
        patches = (images * 2 - 1).reshape(batch, 3, g, p, g, p).permute(0, 2, 4, 3, 5, 1).reshape(batch, g * g, -1)
        latents = self.to_code(self.encoder_head(self.encoder(self.embed(patches))))
        vectors, codebook_loss, commitment_loss = self.codebook(latents.flatten(0, 1))
        decoded = self.decoder_head(self.decoder(self.from_code(vectors.view_as(latents))))
        raw = decoded.reshape(batch, g, g, p, p, 6).permute(0, 5, 1, 3, 2, 4).reshape(batch, 6, side, side)
        return raw.float(), codebook_loss, commitment_loss


def reconstruction_terms(raw: Tensor, images: Tensor, config: QuantizeConfig) -> tuple[Tensor, Tensor]:
    """Weighted l2 and logit-laplace, and the mean image [B, 3, S, S]."""
    mean, log_scale = raw[:, :3], raw[:, 3:].clamp(-7, 7)
    fake = (torch.sigmoid(mean) - 0.1) / 0.8
    x = images * 0.8 + 0.1
    laplace = ((torch.logit(x) - mean).abs() / log_scale.exp() + log_scale + (2 * x * (1 - x)).log()).mean()
    return config.loss.l2 * F.mse_loss(fake, images) + config.loss.logit_laplace * laplace, fake


class PlainStep:
    """Training steps of the plain network; the discriminator's network is VIM's own, so only its use differs."""

    def __init__(
        self,
        config: QuantizeConfig,
        device: torch.device,
        autocast: Callable[[], contextlib.AbstractContextManager[object]],
    ) -> None:
        self.config, self.autocast = config, autocast
        self.model = PlainViTVQGAN(config).to(device)
        optim = config.optim
        settings: dict[str, Any] = {
            "lr": optim.lr,
            "betas": (optim.beta1, optim.beta2),
            "weight_decay": optim.weight_decay,
        }
        self.optimizer = torch.optim.AdamW(self.model.parameters(), **settings)
        self.discriminator: StyleGANDiscriminator | None = None
        if config.loss.adversarial > 0:
            self.discriminator = StyleGANDiscriminator(config.discriminator, config.image_size).to(device)
            self.discriminator_optimizer = torch.optim.AdamW(self.discriminator.parameters(), **settings)

    def __call__(self, images: Tensor, penalised: bool = False) -> Tensor:
        """One update of the generator and, where there is one, of the discriminator; returns the generator's loss."""
        loss, fake = self.generator_loss(images)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.discriminator is not None:
            self.discriminator_optimizer.zero_grad()
            self.discriminator_loss(images, fake.detach(), penalised).backward()
            self.discriminator_optimizer.step()
        return loss.detach()

    def generator_loss(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The generator's loss and its images; the discriminator's weights want no gradient here."""
        if self.discriminator is not None:
            self.discriminator.requires_grad_(False)
        with self.autocast():
            raw, codebook_loss, commitment_loss = self.model(images)
            loss, fake = reconstruction_terms(raw, images, self.config)
            loss = loss + codebook_loss + self.config.codebook.commitment * commitment_loss
            if self.discriminator is not None:
                loss = loss + self.config.loss.adversarial * F.softplus(-self.discriminator(fake)).mean()
        return loss, fake

    def discriminator_loss(self, images: Tensor, fake: Tensor, penalised: bool) -> Tensor:
        """The discriminator's loss, with lazy R1 where `penalised`."""
        assert self.discriminator is not None
        self.discriminator.requires_grad_(True)
        settings = self.config.discriminator
        with self.autocast():
            loss = 0.5 * (F.softplus(-self.discriminator(images)).mean() + F.softplus(self.discriminator(fake)).mean())
        if not penalised:
            return loss
        real = images.detach().requires_grad_(True)
        with self.autocast():
            logits = self.discriminator(real)
        (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        penalty = gradient.square().sum(dim=(1, 2, 3)).mean()
        return loss + 0.5 * settings.r1_gamma * settings.r1_every * penalty
