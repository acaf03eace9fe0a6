"""The image prior: a decoder-only Transformer over codes in raster order (paper section 4)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from vim_core.config import StackConfig
from vim_core.models.dropout import Dropout
from vim_core.models.layers import Block, KeyValue, init_weights
from vim_core.models.saving import load_into, read_config


@dataclass
class PriorShape:
    """Everything that rebuilds a prior network; `classes=0` makes it unconditional."""

    stack: StackConfig = field(default_factory=StackConfig)
    grid: list[int] = field(default_factory=lambda: [32, 32])
    vocabulary: int = 8192
    classes: int = 1000
    dropout: float = 0.1
    null_trained: bool = False
    tokenizer: str = ""

    @property
    def tokens(self) -> int:
        """Codes per image."""
        return self.grid[0] * self.grid[1]


class ImagePrior(nn.Module):
    """Predicts each code from a class token and the codes before it.

    Index `classes` of the class table is the null class: label dropout trains it for guidance and for the
    probe; an unconditional prior has only this one. Positions are learned and factorised in rows and columns
    (the paper says 2D, not whether factorised). Embedding and softmax weights are not tied.
    """

    def __init__(self, shape: PriorShape) -> None:
        super().__init__()
        dim = shape.stack.dim
        self.shape = shape
        self.null_class = shape.classes
        self.code_embedding = nn.Embedding(shape.vocabulary, dim)
        self.class_embedding = nn.Embedding(shape.classes + 1, dim)
        self.rows = nn.Parameter(torch.randn(shape.grid[0], dim) * 0.02)
        self.columns = nn.Parameter(torch.randn(shape.grid[1], dim) * 0.02)
        self.dropout = Dropout(shape.dropout)
        self.blocks = nn.ModuleList(Block(shape.stack, shape.dropout, causal=True) for _ in range(shape.stack.blocks))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, shape.vocabulary)
        self.apply(init_weights)

    def positions(self) -> Tensor:
        """Position vectors of all codes [T, D]."""
        return (self.rows[:, None] + self.columns[None]).flatten(0, 1)

    def embed(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Class token followed by embedded codes: codes [B, t], labels [B] -> [B, 1 + t, D]."""
        tokens = self.code_embedding(codes) + self.positions()[: codes.shape[1]]
        return torch.cat([self.class_embedding(labels)[:, None], tokens], dim=1)

    def forward(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Logits [B, T, V] for every code, each from the class token and the codes before it.

        Args:
            codes: int64 [B, T].
            labels: int64 [B], `null_class` for no class.
        """
        x = self.dropout(self.embed(codes[:, :-1], labels))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))  # type: ignore[no-any-return]

    def block_features(self, codes: Tensor) -> Iterator[Tensor]:
        """Mean over all T code positions of each block's output [B, D], under the null class (paper section 4.2)."""
        labels = torch.full((len(codes),), self.null_class, dtype=torch.int64, device=codes.device)
        x = self.embed(codes, labels)
        for block in self.blocks:
            x = block(x)
            yield x[:, 1:].float().mean(dim=1)

    def empty_cache(self, batch: int, dtype: torch.dtype) -> list[KeyValue]:
        """Static key-value cache, one pair [B, H, T, D / H] a block."""
        stack = self.shape.stack
        size = (batch, stack.heads, self.shape.tokens, stack.dim // stack.heads)
        device = self.rows.device
        return [
            (torch.zeros(size, dtype=dtype, device=device), torch.zeros(size, dtype=dtype, device=device))
            for _ in self.blocks
        ]

    def decode_step(self, x: Tensor, cache: list[KeyValue], position: Tensor, mask: Tensor) -> Tensor:
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
    prior = ImagePrior(read_config(config_uri, "image_prior", "shape", PriorShape))
    load_into(prior, weights_uri)
    return prior.to(device).eval()
