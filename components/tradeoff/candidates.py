"""Candidates at one temperature and guidance: drawn, decoded, looked at, and kept in parts that are not redone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vim_core.metrics import npz
from vim_core.storage import io

PART = 512
"""Candidates of a part at least: what an interruption may cost."""

FORM = {
    "scores": ("float64", 1),
    "correct": ("int64", 1),
    "features": ("float32", 2),
    "logits": ("float32", 2),
}


@dataclass(frozen=True)
class Cell:
    """One temperature and guidance, and its folder of unfinished work."""

    temperature: float
    guidance: float
    folder: str

    def part(self, number: int) -> str:
        """Where the candidates of one part lie."""
        return io.join(self.folder, f"part-{number:05d}.npz")


@dataclass(frozen=True)
class Eyes:
    """What looks at pictures.

    `select` gives the selector's probability of the class wanted [N]; `judge` whether the judge sees the class wanted
    [N], features [N, D] and logits [N, C] of the network whose statistics they are compared with.
    """

    select: Callable[[list[Any], Any], NDArray[np.float64]]
    judge: Callable[[list[Any], Any], tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]]


@dataclass(frozen=True)
class Drawing:
    """How many candidates of how many classes, by whole lane groups; sample i has class i mod classes."""

    classes: int
    candidates: int
    lanes: int

    @property
    def groups(self) -> range:
        """Lane groups that hold all candidates."""
        return range(-(-self.candidates // self.lanes))

    @property
    def parts(self) -> list[range]:
        """The groups of each part."""
        step = max(1, -(-PART // self.lanes))
        return [self.groups[start : start + step] for start in range(0, len(self.groups), step)]

    def drawn(self, groups: range) -> int:
        """Candidates in these groups."""
        return min(groups.stop * self.lanes, self.candidates) - groups.start * self.lanes


def draw(cell: Cell, drawing: Drawing, sampler: Any, decoder: Any, eyes: Eyes, advance: Callable[[int], None]) -> None:
    """Draw the parts of a cell that are not there yet; `advance` is told how many candidates a part had."""
    for number, groups in enumerate(drawing.parts):
        if not io.exists(cell.part(number)):
            found = [_group(group, drawing, sampler, decoder, eyes) for group in groups]
            arrays = {name: np.concatenate([each[name] for each in found]) for name in FORM}
            io.write_bytes(cell.part(number), npz.pack(**arrays))
        advance(drawing.drawn(groups))


def _group(group: int, drawing: Drawing, sampler: Any, decoder: Any, eyes: Eyes) -> dict[str, NDArray[Any]]:
    import torch

    from vim_core.data.images import from_tensor

    index = torch.arange(group * drawing.lanes, (group + 1) * drawing.lanes)
    labels = index % drawing.classes
    codes = sampler.group(group, labels)
    # all lanes are decoded: a picture's last bits may depend on its place in the batch
    kept = int((index < drawing.candidates).sum())
    # 8 bits a pixel, as in a table of samples
    pictures, wanted = list(from_tensor(decoder.decode(codes)))[:kept], labels[:kept]
    correct, features, logits = eyes.judge(pictures, wanted)
    return {"scores": eyes.select(pictures, wanted), "correct": correct, "features": features, "logits": logits}


def column(cell: Cell, drawing: Drawing, name: str, rows: NDArray[np.int64] | None = None) -> NDArray[Any]:
    """One column over all candidates of a cell, or of some different rows, in their order; one part in memory."""
    wanted = None if rows is None else np.sort(rows)
    found, first = [], 0
    for number, groups in enumerate(drawing.parts):
        part = npz.unpack(io.read_bytes(cell.part(number)), {name: FORM[name]}, "a part of a sweep's candidates")[name]
        found.append(part if wanted is None else part[wanted[(wanted >= first) & (wanted < first + len(part))] - first])
        first += drawing.drawn(groups)
    whole = np.concatenate(found)
    return whole if rows is None else whole[np.searchsorted(np.sort(rows), rows)]


def by_class(rows: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """The same rows class by class, each in ascending order; row i has class i mod classes."""
    ordered = np.sort(rows)
    return ordered[np.argsort(ordered % classes, kind="stable")]


def cells(temperatures: list[float], guidances: list[float], folder: str) -> Iterator[Cell]:
    """Every pair, temperatures outermost."""
    for temperature in temperatures:
        for guidance in guidances:
            yield Cell(temperature, guidance, io.join(folder, f"t{float(temperature)}-g{float(guidance)}"))
