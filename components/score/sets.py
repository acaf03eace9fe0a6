"""The sets of generated images that `score` looks at: samples, what selection accepted of them, images from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from components.contract.api import Artifact, Context, Inputs
from vim_core.config import ScoreConfig
from vim_core.errors import DataError
from vim_core.storage import io

SAMPLES = "samples"
ACCEPTED = "accepted-"
"""How the splits of `select` begin; the acceptance rate follows."""


@dataclass(frozen=True)
class ImageSet:
    """One image table of generated images: its files in order, and how they were drawn, for protocol records."""

    name: str
    uris: tuple[str, ...]
    sampling: dict[str, Any] = field(default_factory=dict)

    @property
    def suffix(self) -> str:
        """What the names of its figures end in: nothing for the samples themselves, else _accepted_<rate>."""
        return "" if self.name == SAMPLES else f"_{self.name.replace('-', '_')}"

    @property
    def file(self) -> str:
        """What its files begin with."""
        return self.name


def sets_of(config: ScoreConfig, inputs: Inputs, ctx: Context) -> list[ImageSet]:
    """The samples, or the images of `score.samples_from` in their place; then one set for each acceptance rate.

    Raises:
        DataError: the rates accepted unequal numbers of images, or the images from outside cannot be read.
    """
    found = []
    if config.samples_from:
        found.append(_outside(config.samples_from, inputs["images"], ctx))
    elif "samples" in inputs:
        found.append(
            ImageSet(SAMPLES, tuple(inputs["samples"].uris("images/")), sampling(inputs["samples"].properties))
        )
    return found + (_accepted(inputs["accepted"]) if "accepted" in inputs else [])


def sampling(properties: Mapping[str, Any]) -> dict[str, Any]:
    """How images were drawn (temperature, guidance, filters), as their own artifact says."""
    return {key: value for key, value in properties.get("protocol", {}).items() if key != "count"}


def _accepted(selected: Artifact) -> list[ImageSet]:
    splits = {str(name): int(count) for name, count in selected.properties["splits"].items()}
    if len(set(splits.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(splits.items()))
        raise DataError(f"score: select accepted unequal numbers of images ({counts}), whose figures would not compare")
    told = sampling(selected.properties) | {"selector": str(selected.properties["selector"])}
    told = {key: value for key, value in told.items() if key not in ("rate", "rates")}
    return [
        ImageSet(name, tuple(selected.uris(f"images/{name}-")), told | {"acceptance": name.removeprefix(ACCEPTED)})
        for name in sorted(splits, key=lambda name: -float(name.removeprefix(ACCEPTED)))
    ]


def _outside(uri: str, images: Artifact, ctx: Context) -> ImageSet:
    from components.exchange import tables as exchange

    folder = io.join(ctx.work, "outside")
    classes = [str(name) for name in images.properties.get("classes", [])]
    made = exchange.import_table(uri, folder, classes, int(images.manifest.config["max_pixels"]))
    return ImageSet(SAMPLES, tuple(made), {"from": uri, "state": exchange.table_state(uri)})
