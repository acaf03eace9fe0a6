"""What every benchmark shares: rows, medians of interleaved repetitions, the machine's own matrix-product rate.

A ratio above 1 always means that VIM is better. A figure that could not be had says 'not measured' and why.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from vim_core.distributed.runtimes.base import Runtime, product_rate

RESULTS = Path(__file__).with_name("results")
NOT_MEASURED = "not measured"
Figure = float | str


@dataclass(frozen=True)
class Row:
    """One comparison, as it is kept in JSON; `value` and `peer_value` are in `unit`."""

    name: str
    value: Figure
    unit: str
    peer: str
    peer_value: Figure
    ratio: Figure
    device: str
    dtype: str
    shape: str
    torch: str


@dataclass(frozen=True)
class Bench:
    """Where and how a benchmark runs.

    Attributes:
        runtime: device, dtype and threads.
        toy: tiny shapes, for tests and for machines without the device that the figures are about.
        repeats: timed rounds; each runs every side once.
        folder: scratch space for data tables.
    """

    runtime: Runtime
    toy: bool
    repeats: int
    folder: Path

    @property
    def gpu(self) -> bool:
        """True if the device is a GPU."""
        return self.runtime.device.type == "cuda"

    @property
    def device(self) -> str:
        """The device in words."""
        if self.gpu:
            return torch.cuda.get_device_name(self.runtime.device)
        return f"cpu: {processor()}, {torch.get_num_threads()} threads"

    @property
    def dtype(self) -> str:
        """bf16 means bf16 products over fp32 weights."""
        return self.runtime.numeric.dtype

    def row(self, name: str, value: Figure, unit: str, peer: str, peer_value: Figure, ratio: Figure, shape: str) -> Row:
        """A row with this machine's particulars."""
        return Row(name, value, unit, peer, peer_value, ratio, self.device, self.dtype, shape, torch.__version__)

    def faster(self, name: str, unit: str, rates: tuple[float, float], peer: str, shape: str) -> Row:
        """A row of two rates (more is better), ours first."""
        ours, theirs = rates
        return self.row(name, rounded(ours), unit, peer, rounded(theirs), rounded(ours / theirs), shape)

    def compare(
        self, name: str, unit: str, amount: float, ours: Callable[[], object], theirs: Callable[[], object] | None,
        peer: str, shape: str, warmup: int = 1,
    ) -> Row:  # fmt: skip
        """A row of two rates, `amount` over the median seconds of a side; ours alone where there is no peer."""
        sides = {"ours": ours} | ({"theirs": theirs} if theirs else {})
        rates = {side: amount / seconds for side, seconds in self.medians(sides, warmup).items()}
        if theirs is None:
            return self.absent(name, unit, peer, shape, "not installed: not measured", rounded(rates["ours"]))
        return self.faster(name, unit, (rates["ours"], rates["theirs"]), peer, shape)

    def absent(self, name: str, unit: str, peer: str, shape: str, reason: str, value: Figure = NOT_MEASURED) -> Row:
        """A row whose peer, or which itself, could not be measured."""
        return self.row(name, value, unit, f"{peer} ({reason})", NOT_MEASURED, NOT_MEASURED, shape)

    def medians(self, sides: Mapping[str, Callable[[], object]], warmup: int = 1) -> dict[str, float]:
        """Median seconds of each side; the sides take turns, so that a slow spell of the machine hits all of them."""
        for side in sides.values():
            for _ in range(warmup):
                side()
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(self.repeats):
            for name, side in sides.items():
                seconds[name].append(self._timed(side))
        return {name: statistics.median(values) for name, values in seconds.items()}

    def _timed(self, side: Callable[[], object]) -> float:
        self._synchronize()
        start = time.perf_counter()
        side()
        self._synchronize()
        return time.perf_counter() - start

    def _synchronize(self) -> None:
        if self.gpu:
            torch.cuda.synchronize(self.runtime.device)

    def product_rate(self) -> float:
        """Measured rate of matrix products, in FLOP/s: the best of two sizes, because the larger is not always it."""
        sizes = (64,) if self.toy else (8192, 4096) if self.gpu else (2048, 1024)
        seconds = 0.05 if self.toy else 1.0
        return max(product_rate(self.runtime, size, seconds) for size in sizes) * 1e9


def rounded(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}")


def processor() -> str:
    """The processor's name as Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown processor"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def installed(module: str) -> bool:
    """True if a peer can be imported."""
    return importlib.util.find_spec(module) is not None


def compiled(module: nn.Module) -> None:
    """Compile a network in place by torch.compile."""
    module.compile()


def free() -> None:
    """Give memory back between benchmarks."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def write(name: str, device: str, rows: list[Row], folder: Path = RESULTS) -> Path:
    """Keep rows as `<name>-<device>.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{device}.json"
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return path


def table(rows: list[Row]) -> str:
    """Rows as Markdown."""
    lines = ["| figure | VIM | peer | its figure | ratio | shape |", "|---|---|---|---|---|---|"]
    lines += [f"| {r.name} | {r.value} {r.unit} | {r.peer} | {r.peer_value} | {r.ratio} | {r.shape} |" for r in rows]
    return "\n".join(lines)
