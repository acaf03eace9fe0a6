"""Lane groups: conditions of their samples, drawn alike in this process and in Ray actors, put together to shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from components.contract.api import Context, Inputs
from components.engines.devices import set_threads, torch_device
from components.tokenize.plan import check_tokenizer, code_files
from vim_core.config import SampleConfig
from vim_core.errors import ConfigError
from vim_core.text import nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vim_core.data.code_tables import CodeTable
    from vim_core.data.image_tables import ImageRow


@dataclass(frozen=True)
class LaneGroup:
    """One lane group.

    Attributes:
        index: its number; it draws the samples from `index * lanes` on.
        labels: class of each lane, -1 for none.
        used: the first lanes, whose samples are kept.
        prefix: codes [lanes, P] that the samples begin with; None to draw all of them.
        keys: keys of the images that the prefix is from.
    """

    index: int
    labels: tuple[int, ...]
    used: int
    prefix: NDArray[Any] | None = None
    keys: tuple[str, ...] = ()


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


def sample_key(number: int) -> str:
    """The key of a sample in its image table."""
    return f"sample-{number:08d}"


def make_conditions(config: SampleConfig, inputs: Inputs, ctx: Context) -> Conditions:
    """The conditions that the settings describe.

    Raises:
        ConfigError: the prior does not know a class; there is nothing to complete, or no rows of codes to begin with.
        LineageError: the held-out codes are another tokenizer's.
    """
    import numpy as np

    from vim_core.data.code_tables import CodeTable

    classes = class_numbers(config.classes, inputs["prior"].properties["classes"])
    if not config.prefix:
        return Conditions(classes)
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
    return Conditions(classes, Prefixes(table, chosen, rows * width))


def class_numbers(classes: Sequence[str], names: Sequence[str]) -> list[int]:
    """Numbers of classes given by name or number, in their order; all classes for an empty list.

    `names` are those that the prior knows. A text that is both is taken as a name.

    Raises:
        ConfigError: the prior has no classes, does not know one, or one is given twice.
    """
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


@dataclass(frozen=True)
class DrawPlan:
    """Values that all groups share: (weights, settings) URIs of prior and tokenizer, settings, device, threads."""

    prior: tuple[str, str]
    tokenizer: tuple[str, str]
    config: SampleConfig
    device: str
    threads: int


def draw_plan(config: SampleConfig, inputs: Inputs, device: str, threads: int) -> DrawPlan:
    """The plan for the inputs `prior` and `tokenizer`."""
    prior, tokenizer = (
        (inputs[name].uri("model.safetensors"), inputs[name].uri("config.json")) for name in ("prior", "tokenizer")
    )
    return DrawPlan(prior, tokenizer, config, device, threads)


class GroupDrawer:
    """Prior and tokenizer, loaded once, drawing one group at a time."""

    def __init__(self, plan: DrawPlan) -> None:
        import torch

        from vim_core.models.prior import load_prior
        from vim_core.models.vit_vqgan import load_tokenizer
        from vim_core.sampling.logits import SamplingSettings
        from vim_core.sampling.sampler import Sampler

        set_threads(plan.threads)
        config, device = plan.config, torch_device(plan.device, plan.threads)
        settings = SamplingSettings(**{entry.name: getattr(config, entry.name) for entry in fields(SamplingSettings)})
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self.threads = plan.threads
        self.sampler = Sampler(load_prior(*plan.prior, device), settings, config.lanes, dtype)
        self.tokenizer = load_tokenizer(*plan.tokenizer, device)

    def images(self, group: LaneGroup) -> NDArray[Any]:
        """The images of the lanes in use, uint8 [used, H, W, 3]."""
        import torch

        from vim_core.data.images import from_tensor

        set_threads(self.threads)
        labels = torch.tensor(group.labels)  # [lanes]
        labels = torch.where(labels < 0, self.sampler.prior.null_class, labels)
        prefix = None if group.prefix is None else torch.from_numpy(group.prefix.astype("int64"))  # [lanes, P]
        codes = self.sampler.group(group.index, labels, prefix)  # [lanes, T]
        # All lanes are decoded: a picture's last bits may depend on its position in the batch.
        return from_tensor(self.tokenizer.decode(codes)[: group.used])

    def draw(self, group: LaneGroup) -> list[ImageRow]:
        """The images of the lanes in use, as rows of a table."""
        from vim_core.data.image_tables import ImageRow
        from vim_core.data.images import encode_png

        return [
            ImageRow(
                key=sample_key(group.index * self.sampler.lanes + lane),
                label=group.labels[lane],
                image=encode_png(picture),
                height=picture.shape[0],
                width=picture.shape[1],
                source=f"prior, completing {group.keys[lane]}" if group.keys else "prior",
            )
            for lane, picture in enumerate(self.images(group))
        ]


def sample_ranges(config: SampleConfig) -> list[tuple[int, int]]:
    """Sample ranges [first, last) of the shards, contiguous."""
    bounds = [config.count * shard // config.shards for shard in range(config.shards + 1)]
    return list(pairwise(bounds))


def shard_name(config: SampleConfig, shard: int) -> str:
    """The shard's file."""
    return f"images/samples-{shard:05d}-of-{config.shards:05d}.parquet"


class GroupAssembly:
    """Rows of finished groups, held until the missing shards that they belong to are complete.

    Args:
        config: gives count, lanes and shards.
        missing: the shards that are to be made.
    """

    def __init__(self, config: SampleConfig, missing: Sequence[int]) -> None:
        self.lanes = config.lanes
        self._ranges = sample_ranges(config)
        self._missing: dict[int, range] = {}  # groups of each missing shard
        for shard in missing:
            first, last = self._ranges[shard]
            self._missing[shard] = range(first // self.lanes, -(-last // self.lanes)) if first < last else range(0)
        self._rows: dict[int, list[ImageRow]] = {}

    @property
    def groups(self) -> list[int]:
        """Groups that the missing shards are made of, in order."""
        return sorted({group for groups in self._missing.values() for group in groups})

    def add(self, group: int, rows: list[ImageRow]) -> Iterator[tuple[int, list[ImageRow]]]:
        """Take a group's rows; returns the shards that are complete now, with their rows."""
        self._rows[group] = rows
        yield from self.pop_complete()

    def pop_complete(self) -> Iterator[tuple[int, list[ImageRow]]]:
        """Shards whose groups are all there, each once; rows that no other shard needs are dropped."""
        for shard in [shard for shard, groups in self._missing.items() if all(g in self._rows for g in groups)]:
            groups = self._missing.pop(shard)
            first, last = self._ranges[shard]
            rows = [row for group in groups for row in self._rows[group]]
            start = groups.start * self.lanes
            yield shard, rows[first - start : last - start]
            needed = {group for others in self._missing.values() for group in others}
            for group in set(groups) - needed:
                del self._rows[group]
