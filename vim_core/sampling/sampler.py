"""Samples by lane groups, each a pure function of settings, group and labels."""

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
"""On CUDA, attention spans the filled part of the cache, rounded up to a multiple of this: one graph for each span."""

Step = Callable[[int], None]
"""Samples the code at a position; the position is counted on the host."""


def attention_span(position: int, tokens: int, chunk: int) -> int:
    """Number of cache entries that the step at `position` reads."""
    return min(tokens, (position // chunk + 1) * chunk)


class CudaGraphs:
    """CUDA graphs of a step, one for each span of attention, captured at first use.

    A replay launches all kernels of a step at once; position, noise and codes are read and written on the device.
    """

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, position: int) -> None:
        span = attention_span(position, self.lanes.tokens, CHUNK)
        if span not in self._graphs:
            self._graphs[span] = self._capture(span)
        self._graphs[span].replay()

    def _capture(self, span: int) -> torch.cuda.CUDAGraph:
        # Libraries choose kernels and allocate workspace at first use, which a capture must not see: run one step
        # before it and undo that step.
        state = self.lanes.state()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.lanes.step(span)
        torch.cuda.current_stream().wait_stream(stream)
        self.lanes.restore(state)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self.lanes.step(span)
        return graph


class Sampler:
    """Samples whole lane groups: group g has samples g * lanes … (g + 1) * lanes - 1, sample i in lane i mod lanes.

    The batch shape never changes, so a sample does not depend on the number of samples. Weights are converted once:
    later changes of the prior are not seen.

    Args:
        prior: the network, which is not changed, on its own device.
        settings: how to sample.
        lanes: samples decoded together.
        dtype: fp32 or bf16, of products and cache.
        graphs: on CUDA, replay steps as graphs. Not in a thread beside a training, which allocates while they are
            captured.

    Raises:
        ConfigError: guidance for a prior without classes, or one trained without the null class.
    """

    def __init__(
        self,
        prior: ImagePrior,
        settings: SamplingSettings,
        lanes: int,
        dtype: torch.dtype = torch.float32,
        graphs: bool = True,
    ) -> None:
        self._graphs = graphs
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
        """The program of one step on the lanes' device: CUDA graphs, one XLA program, or eager on CPU."""
        lanes, kind = self._lanes, self._lanes.codes.device.type
        if kind == "cuda" and self._graphs:
            return CudaGraphs(lanes)
        if kind == "xla":
            from vim_core.distributed.runtimes import xla

            def step(position: int) -> None:
                lanes.step(lanes.tokens)
                xla.send()

            return step
        # Where nothing is compiled, shapes are free: attention reads the filled part of the cache and needs no mask.
        return lambda position: lanes.step(position + 1)

    @torch.no_grad()
    def group(
        self,
        index: int,
        labels: Tensor,
        prefix: Tensor | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Codes int64 [lanes, T] of lane group `index`, on the CPU.

        Args:
            index: number of the group.
            labels: class of every lane, int64 [lanes]; the null class for none.
            prefix: given codes int64 [lanes, P] that the images begin with in raster order; the rest is sampled.
            check: called before every token, to end the work by an exception.

        Raises:
            ValueError: `labels` is not [lanes], or `prefix` not [lanes, at most T].
        """
        tokens = self.prior.shape.tokens
        if labels.shape != (self.lanes,):
            raise ValueError(f"expected {self.lanes} labels, one a lane, got {list(labels.shape)}")
        if prefix is not None and (prefix.ndim != 2 or len(prefix) != self.lanes or prefix.shape[1] > tokens):
            raise ValueError(f"expected given codes [{self.lanes}, at most {tokens}], got {list(prefix.shape)}")
        uniform = sampling_noise(self.settings.seed, index * self.lanes, self.lanes, tokens)  # [lanes, T]
        first = self._lanes.start(labels, uniform, prefix)
        for position in range(first, tokens):
            check()
            self._step(position)
        return self._lanes.codes.to("cpu", copy=True)
