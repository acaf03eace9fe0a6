"""Bounds that an artifact has to keep before anything is made from it."""

from __future__ import annotations

from dataclasses import dataclass

from vim_core.config.fields import execution, require


@dataclass
class GatesConfig:
    """Bounds of the quality gates; none is part of a fingerprint, so a changed bound makes nothing again.

    `codebook_usage` is the least share of the codes that the tokenizer must use at the end of its training, over the
    last logged window of batches (0: any). `nonfinite_share` is the largest share of a training's updates that may
    have been skipped because a loss or gradient was not finite (1: any).
    """

    codebook_usage: float = execution(0.1)
    nonfinite_share: float = execution(0.01)

    def __post_init__(self) -> None:
        for name in ("codebook_usage", "nonfinite_share"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"gates.{name}", value, "is a share, in [0, 1]")
