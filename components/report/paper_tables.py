"""The paper's tables of results, and the conditions on a figure of ours to enter them; `paper_tables.yaml` has both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

IMAGENET, CELEBA, FFHQ = "ImageNet", "CelebA-HQ", "FFHQ"
SPLITS = {IMAGENET: (1_281_167, 50_000), CELEBA: (25_000, 5_000), FFHQ: (60_000, 10_000)}
"""Training and held-out images of the paper's data sets; faces as taming-transformers splits them."""

SIZE = 256
"""Side of the paper's images in pixels."""


@dataclass(frozen=True)
class Column:
    """One column: its heading, and where our cell comes from.

    `ours` names a description of the run (see `paper_comparison`), `figure` a figure of `results.json`. A figure
    enters only if it was measured on the table's data set, by `protocol` where the column names one, and on
    `count` images where that is given; `scale` brings it into the paper's unit.
    """

    title: str
    ours: str = ""
    figure: str = ""
    protocol: str = ""
    count: int = 0
    scale: float = 1.0
    digits: int = 2


@dataclass(frozen=True)
class Table:
    """A table of the paper: number, what it shows, columns, rows as printed, and where the paper leaves doubts.

    `datasets` are those a run must have used to fill a figure; `groups` are the groups of `results.json` whose
    figures stand below the table when they may not enter it, `see` another table that has them below.
    """

    number: int
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    components: tuple[str, ...]
    doubts: tuple[str, ...]
    groups: tuple[str, ...] = ()
    datasets: tuple[str, ...] = (IMAGENET,)
    see: int = 0

    @property
    def compute(self) -> str:
        """The paper's compute: of the tokenizer's training alone, or of the prior's after it."""
        return STAGE_2 if "prior" in self.components else STAGE_1


STAGE_1 = "128 CloudTPUv4, 500,000 steps of 256 images"
STAGE_2 = "450,000 steps of 1,024 images after the tokenizer's training; the number of TPUs is not stated"


@cache
def tables() -> tuple[Table, ...]:
    """Tables with results; Table 2 lists sizes (see the README of `vim_core`)."""
    import yaml

    content = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))

    def table(entry: dict[str, Any]) -> Table:
        columns = tuple(Column(**column) for column in entry.pop("columns"))
        rows = tuple(tuple(row) for row in entry.pop("rows"))
        number, title, see = entry.pop("number"), entry.pop("title"), entry.pop("see", 0)
        return Table(number, title, columns, rows, see=see, **{name: tuple(values) for name, values in entry.items()})

    return tuple(table(entry) for entry in content["tables"])
