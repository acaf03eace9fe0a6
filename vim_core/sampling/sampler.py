"""Samples by lane groups, each a pure function of settings, group and labels."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from vim_core.errors import ConfigError
from vim_core.models.prior import ImagePrior
from vim_core.sampling.drawing import noise
from vim_core.sampling.lanes import Lanes
from vim_core.sampling.programs import Step, program
from vim_core.sampling.settings import Settings


class Sampler:
    """Draws whole lane groups: group g holds the samples g * lanes … (g + 1) * lanes - 1, sample i in lane i mod lanes.

    The batch shape never changes, so a sample does not depend on how many were asked for. Weights are converted once:
    later changes of the prior are not seen.

    Args:
        prior: the network; it stays as it is, on its own device.
        settings: how to draw.
        lanes: samples decoded together.
        dtype: fp32 or bf16, of products and cache.

    Raises:
        ConfigError: guidance is asked of a prior without classes, or of one that never saw the null class.
    """

    def __init__(self, prior: ImagePrior, settings: Settings, lanes: int, dtype: torch.dtype = torch.float32) -> None:
        if settings.guided and not (prior.shape.null_trained and prior.shape.classes):
            raise ConfigError(
                f"guidance={settings.guidance}: needs a class-conditional prior trained with prior.label_dropout > 0"
            )
        self.settings = settings
        self.lanes = lanes
        self.dtype = dtype
        with torch.no_grad():
            self._lanes = Lanes(prior, settings, lanes, dtype)
        self.prior = self._lanes.prior

    @cached_property
    def _step(self) -> Step:
        return program(self._lanes)

    @torch.no_grad()
    def group(self, index: int, labels: Tensor, given: Tensor | None = None) -> Tensor:
        """Codes int64 [lanes, T] of lane group `index`, on the CPU.

        Args:
            index: which group.
            labels: class of every lane, int64 [lanes]; the null class for none.
            given: codes int64 [lanes, P] that the images begin with, in raster order; they are kept, the rest is drawn.

        Raises:
            ValueError: there is not one label a lane, or not one row of given codes a lane with at most T in each.
        """
        tokens = self.prior.shape.tokens
        if labels.shape != (self.lanes,):
            raise ValueError(f"expected {self.lanes} labels, one a lane, got {list(labels.shape)}")
        if given is not None and (given.ndim != 2 or len(given) != self.lanes or given.shape[1] > tokens):
            raise ValueError(f"expected given codes [{self.lanes}, at most {tokens}], got {list(given.shape)}")
        uniform = noise(self.settings.seed, index * self.lanes, self.lanes, tokens)
        first = self._lanes.begin(labels, uniform, given)
        for position in range(first, tokens):
            self._step(position)
        return self._lanes.codes.to("cpu", copy=True)
