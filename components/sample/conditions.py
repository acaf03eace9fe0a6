"""The conditions of every sample: its class label, and the codes of a held-out image that it begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.contract.api import Artifact, Context, Inputs
from components.sample.draw import LaneGroup
from components.tokenize.plan import check_tokenizer, code_files
from vim_core.config import SampleConfig
from vim_core.errors import ConfigError
from vim_core.text import nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vim_core.data.code_tables import CodeTable


@dataclass(frozen=True)
class Prefixes:
    """Held-out images to complete: the rows of a code table that take part, and how many codes samples begin with."""

    table: CodeTable
    rows: NDArray[Any]
    codes: int


@dataclass(frozen=True)
class Conditions:
    """Sample i has the i-th class of `classes`, or the label of the i-th held-out image, in turn; -1 without classes.

    So the first n samples of a class are the same however many are drawn.
    """

    classes: Sequence[int]
    prefixes: Prefixes | None = None

    def group(self, index: int, lanes: int, used: int) -> LaneGroup:
        """Lane group `index`, of whose lanes the first `used` are kept."""
        samples = range(index * lanes, (index + 1) * lanes)
        if self.prefixes is None:
            classes = self.classes or [-1]
            return LaneGroup(index, tuple(classes[i % len(classes)] for i in samples), used)
        table, chosen = self.prefixes.table, self.prefixes.rows
        rows = [int(chosen[i % len(chosen)]) for i in samples]
        labels = tuple(int(table.labels[row]) if self.classes else -1 for row in rows)
        prefix = table.codes[rows, : self.prefixes.codes]  # [lanes, P]
        return LaneGroup(index, labels, used, prefix, tuple(table.keys[row] for row in rows))


def make_conditions(config: SampleConfig, inputs: Inputs, ctx: Context) -> Conditions:
    """The conditions that the settings describe.

    Raises:
        ConfigError: the prior does not know a class; there is nothing to complete, or no rows of codes to begin with.
        LineageError: the held-out codes are another tokenizer's.
    """
    classes = class_numbers(config.classes, inputs["prior"])
    return Conditions(classes, _held_out_prefixes(config, classes, inputs, ctx) if config.prefix else None)


def class_numbers(classes: Sequence[str], prior: Artifact) -> list[int]:
    """Numbers of classes given by name or number, in their order; all classes for an empty list.

    A text that is both is taken as a name.

    Raises:
        ConfigError: the prior has no classes, does not know one, or one is given twice.
    """
    names = [str(name) for name in prior.properties["classes"]]
    if not classes:
        return list(range(len(names)))
    setting = f"sample.classes={list(classes)}"
    if not names:
        raise ConfigError(f"{setting}: the prior was trained without classes; leave it empty")
    numbers: list[int] = []
    for text in classes:
        if text in names:
            number = names.index(text)
        elif text.isdecimal():
            number = int(text)
            if number >= len(names):
                raise ConfigError(f"{setting}: there is no class {text}, only 0 to {len(names) - 1}")
        else:
            near = nearest(text, names)
            raise ConfigError(f"{setting}: no class is called {text!r}" + (f"; did you mean {near!r}?" if near else ""))
        if number in numbers:
            raise ConfigError(f"{setting}: {text!r} is there twice")
        numbers.append(number)
    return numbers


def _held_out_prefixes(config: SampleConfig, classes: Sequence[int], inputs: Inputs, ctx: Context) -> Prefixes:
    import numpy as np

    from vim_core.data.code_tables import CodeTable

    if "codes" not in inputs:
        raise ConfigError(
            f"sample.prefix={config.prefix}: completes held-out images; add tokenize to the preset's components"
        )
    check_tokenizer(inputs["codes"], inputs["tokenizer"])
    table = CodeTable(code_files(inputs["codes"], "test"), ctx.run.code_cache)
    height, width = table.meta.grid
    rows = round(config.prefix * height)
    if not 0 < rows < height:
        raise ConfigError(
            f"sample.prefix={config.prefix}: gives {rows} of {height} rows of codes; at least one must be given and "
            "one be left to draw"
        )
    chosen = np.arange(len(table))
    if classes:
        chosen = chosen[np.isin(table.labels, classes)]
    if not len(chosen):
        raise ConfigError(f"sample.prefix={config.prefix}: no held-out image is of sample.classes={config.classes}")
    return Prefixes(table, chosen, rows * width)
