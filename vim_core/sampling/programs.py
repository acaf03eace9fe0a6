"""How the steps of decoding run: one by one on CPU, as CUDA graphs, as one program on XLA."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vim_core.sampling.lanes import Lanes

CHUNK = 128
"""On CUDA attention spans the filled part of the cache, rounded up to this many places: one graph for each."""

Step = Callable[[int], None]
"""Draws the code at a position that the host counts along."""


def program(lanes: Lanes) -> Step:
    """What runs one step of these lanes."""
    kind = lanes.codes.device.type
    if kind == "cuda":
        return Graphs(lanes)
    if kind == "xla":
        return lambda position: _on_xla(lanes)
    # Shapes are free there: attention reads what is filled, and needs no mask.
    return lambda position: lanes.step(position + 1)


def _on_xla(lanes: Lanes) -> None:
    from vim_core.distributed.runtimes import xla

    lanes.step(lanes.tokens)
    xla.send()


def span_of(position: int, tokens: int, chunk: int) -> int:
    """Places of the cache that the step at this position reads."""
    return min(tokens, (position // chunk + 1) * chunk)


class Graphs:
    """CUDA graphs of a step, one for each span of attention, captured when it is first needed.

    A replay launches all kernels of a step at once; position, noise and codes are read and written on the device.
    """

    def __init__(self, lanes: Lanes, chunk: int = CHUNK) -> None:
        self.lanes = lanes
        self.chunk = chunk
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, position: int) -> None:
        span = span_of(position, self.lanes.tokens, self.chunk)
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
