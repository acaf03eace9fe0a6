"""The image prior: a decoder-only Transformer over codes in raster order (paper section 4)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from vim_core.config import StackConfig
from vim_core.config.fields import one_of, require
from vim_core.layers.modern import ModernBlock, RMSNorm, Rotary
from vim_core.layers.transformer import (
    Block,
    Dropout,
    Embedding,
    KeyValue,
    LayerNorm,
    Linear,
    PreNormBlock,
    init_weights,
    run_block,
)
from vim_core.models.sizes import prior_stack
from vim_core.weights.saving import allocate_and_load, read_config


@dataclass
class PriorShape:
    """Settings that rebuild a prior network; `classes=0` makes it unconditional."""

    stack: StackConfig = field(default_factory=StackConfig)
    grid: list[int] = field(default_factory=lambda: [32, 32])
    vocabulary: int = 8192
    classes: int = 1000
    dropout: float = 0.1
    null_trained: bool = False
    tokenizer: str = ""
    variant: str = "paper"
    embedding_dropout: bool = True

    def __post_init__(self) -> None:
        one_of("prior.variant", self.variant, ("paper", "modern"))
        self.grid = list(self.grid)

    @property
    def tokens(self) -> int:
        """Codes per image."""
        return self.grid[0] * self.grid[1]


class ImagePrior(nn.Module):
    """Predicts each code from a class token and the codes before it.

    Index `classes` of the class table is the null class: label dropout trains it for guidance and for the
    probe. An unconditional prior has this one alone: no class token, but the learned start vector from which the
    first code is predicted. Embedding and softmax weights are not tied.

    The paper's variant has learned positions, factorised in rows and columns (the paper says 2D, not whether
    factorised), LayerNorm, GELU and one more norm at the end; the modern one is described in `modern`.
    With `recompute` training keeps the blocks' inputs alone and runs each block again in the backward pass.
    """

    def __init__(self, shape: PriorShape, recompute: bool = False) -> None:
        super().__init__()
        dim, modern = shape.stack.dim, shape.variant == "modern"
        self.shape = shape
        self.recompute = recompute
        self.null_class = shape.classes
        self.code_embedding = Embedding(shape.vocabulary, dim)
        self.class_embedding = Embedding(shape.classes + 1, dim)
        self.learned = not modern
        if self.learned:
            self.rows = nn.Parameter(torch.empty(shape.grid[0], dim))
            self.columns = nn.Parameter(torch.empty(shape.grid[1], dim))
            self.reset_parameters()
        self.dropout = Dropout(shape.dropout if shape.embedding_dropout else 0.0)
        if modern:
            rotary = Rotary((shape.grid[0], shape.grid[1]), dim // shape.stack.heads)
            blocks: list[PreNormBlock] = [
                ModernBlock(shape.stack, shape.dropout, rotary) for _ in range(shape.stack.blocks)
            ]
        else:
            blocks = [Block(shape.stack, shape.dropout, causal=True) for _ in range(shape.stack.blocks)]
        self.blocks = nn.ModuleList(blocks)
        self.norm: LayerNorm | RMSNorm = RMSNorm(dim) if modern else LayerNorm(dim)
        self.head = Linear(dim, shape.vocabulary, bias=not modern)
        self.apply(init_weights)

    @classmethod
    def from_preset(cls, name: str, *, recompute: bool = False, **overrides: Any) -> ImagePrior:
        """A prior of the paper's size `base` or `large` (Table 2), class-conditional ImageNet unless overridden.

        Args:
            name: `base` or `large`.
            recompute: see the class.
            **overrides: fields of `PriorShape`, such as `classes=0` or `variant="modern"`.

        Raises:
            ConfigError: there is no such preset.
        """
        shape = replace(PriorShape(prior_stack(name), embedding_dropout=False), **overrides)
        return cls(shape, recompute)

    def reset_parameters(self) -> None:
        """Draw this module's own parameters, the positions."""
        if self.learned and not self.rows.is_meta:
            with torch.no_grad():
                for table in (self.rows, self.columns):
                    table.copy_(torch.randn_like(table) * 0.02)

    def draw_order(self) -> Iterator[nn.Module]:
        """All modules in the order in which construction draws their weights."""
        yield from (self.code_embedding, self.class_embedding, self)
        for part in (self.blocks, self.norm, self.head):
            yield from part.modules()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.code_embedding.weight.device

    def positions(self) -> Tensor:
        """Position vectors added to all codes [T, D]; zeros where the blocks turn by position instead."""
        if not self.learned:
            return self.code_embedding.weight.new_zeros(self.shape.tokens, self.shape.stack.dim)
        return (self.rows[:, None] + self.columns[None]).flatten(0, 1)

    def embed(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Class token followed by embedded codes: codes [B, t], labels [B] -> [B, 1 + t, D]."""
        tokens = self.code_embedding(codes)  # [B, t, D]
        if self.learned:
            tokens = tokens + self.positions()[: codes.shape[1]]
        return torch.cat([self.class_embedding(labels)[:, None], tokens], dim=1)

    def forward(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Logits [B, T, V] for codes int64 [B, T], each from the class token and the codes before it.

        `labels` int64 [B] are `null_class` for no class.
        """
        x = self.dropout(self.embed(codes[:, :-1], labels))  # [B, T, D]: the class token, then all codes but the last
        for block in self.blocks:
            x = run_block(block, x, self.recompute)
        return self.head(self.norm(x))  # type: ignore[no-any-return]

    def block_features(self, codes: Tensor) -> Iterator[Tensor]:
        """Mean over all T code positions of each block's output [B, D], under the null class (paper section 4.2)."""
        labels = torch.full((len(codes),), self.null_class, dtype=torch.int64, device=codes.device)
        x = self.embed(codes, labels)  # [B, 1 + T, D]
        for block in self.blocks:
            x = block(x)
            yield x[:, 1:].float().mean(dim=1)

    def features(self, codes: Tensor, block: int) -> Tensor:
        """Mean-pooled output [B, D] of one block, counted from 0, for codes int64 [B, T] under the null class.

        Later blocks are not run.

        Raises:
            ConfigError: there is no such block.
        """
        require(0 <= block < len(self.blocks), "block", block, f"this prior has blocks 0 to {len(self.blocks) - 1}")
        return next(islice(self.block_features(codes), block, None))

    def empty_cache(self, batch: int, dtype: torch.dtype) -> list[KeyValue]:
        """Static key-value cache, one pair [B, H, T, D / H] a block."""
        stack = self.shape.stack
        size = (batch, stack.heads, self.shape.tokens, stack.dim // stack.heads)
        return [
            (torch.zeros(size, dtype=dtype, device=self.device), torch.zeros(size, dtype=dtype, device=self.device))
            for _ in self.blocks
        ]

    def prefill(self, x: Tensor, cache: list[KeyValue]) -> None:
        """Put the keys and values of the first embedded tokens x [B, t, D] into the cache; see `embed`."""
        for block, pair in zip(self.blocks, cache, strict=True):
            x = block.prefill(x, pair)  # type: ignore[operator]

    def decode_step(self, x: Tensor, cache: list[KeyValue], position: Tensor, mask: Tensor | None) -> Tensor:
        """Logits [B, V] after one more embedded token x [B, 1, D]; see `Attention.step`."""
        for block, pair in zip(self.blocks, cache, strict=True):
            x = block.step(x, pair, position, mask)  # type: ignore[operator]
        return self.head(self.norm(x))[:, 0].float()  # type: ignore[no-any-return]


def model_config(shape: PriorShape) -> bytes:
    """The settings that rebuild the network, as JSON."""
    return json.dumps({"kind": "image_prior", "shape": asdict(shape)}, indent=1, sort_keys=True).encode()


def load_prior(weights_uri: str, config_uri: str, device: str = "cpu") -> ImagePrior:
    """Rebuild a trained prior in evaluation mode; loading is strict.

    Raises:
        DataError: the files are missing or do not fit each other.
    """
    shape = read_config(config_uri, "image_prior", "shape", PriorShape)
    with torch.device("meta"):
        prior = ImagePrior(shape)
    allocate_and_load(prior, weights_uri, device)
    return prior.eval()
