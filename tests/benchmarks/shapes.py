"""The sizes that are measured, and their toys."""

from __future__ import annotations

from dataclasses import dataclass

from vim_core.config import (
    CodebookConfig,
    DiscriminatorConfig,
    LossConfig,
    OptimConfig,
    QuantizeConfig,
    StackConfig,
)
from vim_core.models.prior import PriorShape

SMALL = StackConfig(blocks=8, heads=8, dim=512, mlp=2048)
BASE = StackConfig(blocks=12, heads=12, dim=768, mlp=3072)
VIM_BASE = StackConfig(blocks=24, heads=16, dim=1536, mlp=6144)
VIM_LARGE = StackConfig(blocks=36, heads=32, dim=2048, mlp=8192)
GPT2_SIZE = StackConfig(blocks=12, heads=12, dim=768, mlp=3072)
TOY = StackConfig(blocks=1, heads=2, dim=16, mlp=32)


@dataclass(frozen=True)
class Stage1:
    """A ViT-VQGAN step: the same stack on both sides, square images."""

    label: str
    stack: StackConfig
    batch: int
    image_size: int = 256
    patch: int = 8
    codes: int = 8192
    code_dim: int = 32

    def words(self) -> str:
        """For the rows."""
        tokens = (self.image_size // self.patch) ** 2
        return f"{self.label}, {self.image_size}x{self.image_size}, {tokens} tokens, batch {self.batch}"

    def config(self, adversarial: bool) -> QuantizeConfig:
        """Settings of the step: no perceptual term, no restarts, no average of weights."""
        toy = self.image_size < 32
        return QuantizeConfig(
            batch=self.batch,
            image_size=self.image_size,
            patch=self.patch,
            encoder=self.stack,
            decoder=self.stack,
            codebook=CodebookConfig(codes=self.codes, dim=self.code_dim),
            loss=LossConfig(perceptual=0.0, adversarial=0.1 if adversarial else 0.0),
            discriminator=DiscriminatorConfig(
                channels=8 if toy else 512, base=64 if toy else 32768, stddev_group=min(4, self.batch)
            ),
            optim=OptimConfig(decay="constant"),
        )


@dataclass(frozen=True)
class Stage2:
    """A prior step over square grids of codes."""

    label: str
    stack: StackConfig
    batch: int
    side: int = 32
    vocabulary: int = 8192
    classes: int = 1000
    dropout: float = 0.0

    def words(self) -> str:
        """For the rows."""
        stack = self.stack
        size = f"{stack.blocks} blocks of {stack.dim}, {self.vocabulary} codes"
        return f"{self.label}: {size}, {self.side**2} tokens, batch {self.batch}, dropout {self.dropout}"

    def shape(self) -> PriorShape:
        """The network."""
        return PriorShape(self.stack, [self.side, self.side], self.vocabulary, self.classes, self.dropout)


def toy_stage1(batch: int = 2) -> Stage1:
    """8x8 pixels, four tokens."""
    return Stage1("toy", TOY, batch, image_size=8, patch=4, codes=16, code_dim=4)


def toy_stage2(dropout: float = 0.0) -> Stage2:
    """Four tokens."""
    return Stage2("toy", TOY, 2, side=2, vocabulary=16, classes=3, dropout=dropout)
