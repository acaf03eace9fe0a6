"""What is asked of every sample: its class, and the codes that it begins with."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.contract import lineage
from components.contract.api import Artifact, Context, Inputs
from components.sample.draw import Group
from vim_core.config import SampleConfig
from vim_core.errors import ConfigError, LineageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vim_core.data.code_tables import CodeTable


@dataclass(frozen=True)
class Given:
    """Held-out images to complete: rows of a code table in use, and how many of their codes are given."""

    table: CodeTable
    rows: NDArray[Any]
    count: int


@dataclass(frozen=True)
class Asked:
    """Sample i has the i-th class of `classes`, or the label of the i-th held-out image, in turn; -1 without classes.

    So the first n samples of a class are the same however many are drawn.
    """

    classes: Sequence[int]
    given: Given | None = None

    def group(self, index: int, lanes: int, used: int) -> Group:
        """The lane group `index`, of whose lanes the first `used` are kept."""
        samples = range(index * lanes, (index + 1) * lanes)
        if self.given is None:
            return Group(index, tuple(self._label(i) for i in samples), used)
        table, count = self.given.table, self.given.count
        rows = [int(self.given.rows[i % len(self.given.rows)]) for i in samples]
        labels = tuple(int(table.labels[row]) if self.classes else -1 for row in rows)
        return Group(index, labels, used, table.codes[rows, :count], tuple(table.keys[row] for row in rows))

    def _label(self, sample: int) -> int:
        return self.classes[sample % len(self.classes)] if self.classes else -1


def asked(config: SampleConfig, inputs: Inputs, ctx: Context) -> Asked:
    """What the settings ask of this prior.

    Raises:
        ConfigError: a class that the prior does not know; nothing to complete, or no rows given of it.
        LineageError: the held-out codes are another tokenizer's.
    """
    classes = numbers(config.classes, inputs["prior"])
    return Asked(classes, _given(config, classes, inputs, ctx) if config.prefix else None)


def numbers(classes: Sequence[str], prior: Artifact) -> list[int]:
    """Class numbers of names or numbers, as given; all where none is given. A name goes before a number."""
    known = [str(name) for name in prior.properties["classes"]]
    if not classes:
        return list(range(len(known)))
    if not known:
        raise ConfigError(f"sample.classes={list(classes)}: the prior was trained without classes; leave it empty")
    found = [_number(text, known, list(classes)) for text in classes]
    twice = [text for text, number in zip(classes, found, strict=True) if found.count(number) > 1]
    if twice:
        raise ConfigError(f"sample.classes={list(classes)}: {twice[0]!r} is there twice")
    return found


def _number(text: str, known: list[str], classes: list[str]) -> int:
    if text in known:
        return known.index(text)
    if text.isdecimal():
        if int(text) < len(known):
            return int(text)
        raise ConfigError(f"sample.classes={classes}: there is no class {text}, only 0 to {len(known) - 1}")
    nearest = difflib.get_close_matches(text, known, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ConfigError(f"sample.classes={classes}: no class is called {text!r}{hint}")


def _given(config: SampleConfig, classes: Sequence[int], inputs: Inputs, ctx: Context) -> Given:
    import numpy as np

    from components.tokenize.code_files import code_files
    from vim_core.data.code_tables import CodeTable

    if "codes" not in inputs:
        raise ConfigError(
            f"sample.prefix={config.prefix}: completes held-out images; add tokenize to the preset's components"
        )
    codes, tokenizer = inputs["codes"], lineage.of_tokenizer(inputs["tokenizer"])
    made_by = lineage.of_codes(codes.properties)
    if not lineage.same_codes(made_by, tokenizer):
        raise LineageError(
            f"the code table {codes.digest[:12]} {lineage.difference(made_by, tokenizer, 'was made by')}; "
            "run `vimctl run tokenize` for this tokenizer"
        )
    table = CodeTable(code_files(codes, "test"), ctx.run.code_cache)
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
    return Given(table, chosen, rows * width)
