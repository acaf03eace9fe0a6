"""Samples by lane groups, each a pure function of settings, group and labels; how the steps of a group run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from vim_core.errors import ConfigError
from vim_core.models.prior import ImagePrior
from vim_core.sampling.lanes import Lanes
from vim_core.sampling.logits import SamplingSettings, sampling_noise

CHUNK = 128
"""On CUDA attention spans the filled part of the cache, rounded up to this many places: one graph for each."""

Step = Callable[[int], None]
"""Draws the code at a position that the host counts along."""


def step_program(lanes: Lanes) -> Step:
    """What runs one step of these lanes."""
    kind = lanes.codes.device.type
    if kind == "cuda":
        return CudaGraphs(lanes)
    if kind == "xla":
        return lambda position: _on_xla(lanes)
    # Shapes are free there: attention reads what is filled, and needs no mask.
    return lambda position: lanes.step(position + 1)


def _on_xla(lanes: Lanes) -> None:
    from vim_core.distributed.runtimes import xla

    lanes.step(lanes.tokens)
    xla.send()


def attention_span(position: int, tokens: int, chunk: int) -> int:
    """Places of the cache that the step at this position reads."""
    return min(tokens, (position // chunk + 1) * chunk)


class CudaGraphs:
    """CUDA graphs of a step, one for each span of attention, captured when it is first needed.

    A replay launches all kernels of a step at once; position, noise and codes are read and written on the device.
    """

    def __init__(self, lanes: Lanes, chunk: int = CHUNK) -> None:
        self.lanes = lanes
        self.chunk = chunk
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, position: int) -> None:
        span = attention_span(position, self.lanes.tokens, self.chunk)
        if span not in self._graphs:
            self._graphs[span] = self._captured(span)
        self._graphs[span].replay()

    def _captured(self, span: int) -> torch.cuda.CUDAGraph:
        """Libraries choose kernels and take workspace at first use, which a capture must not see: one step before."""
        kept = self.lanes.state()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.lanes.step(span)
        torch.cuda.current_stream().wait_stream(stream)
        self.lanes.restore(kept)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self.lanes.step(span)
        return graph


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

    def __init__(
        self, prior: ImagePrior, settings: SamplingSettings, lanes: int, dtype: torch.dtype = torch.float32
    ) -> None:
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
        return step_program(self._lanes)

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
        uniform = sampling_noise(self.settings.seed, index * self.lanes, self.lanes, tokens)
        first = self._lanes.begin(labels, uniform, given)
        for position in range(first, tokens):
            self._step(position)
        return self._lanes.codes.to("cpu", copy=True)
