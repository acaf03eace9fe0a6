"""The sets of generated images that `score` measures: samples, those that selection accepted, images from outside."""

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
"""Prefix of the splits of `select`; the acceptance rate follows."""


@dataclass(frozen=True)
class ImageSet:
    """One image table of generated images: its files in order, and `sampling`, how they were drawn, for records."""

    name: str
    uris: tuple[str, ...]
    sampling: dict[str, Any] = field(default_factory=dict)

    @property
    def suffix(self) -> str:
        """Suffix of the names of its figures: none for the samples themselves, else _accepted_<rate>."""
        return "" if self.name == SAMPLES else f"_{self.name.replace('-', '_')}"


def image_sets(config: ScoreConfig, inputs: Inputs, ctx: Context) -> list[ImageSet]:
    """The samples, or the images of `score.samples_from` in their place; then one set for each acceptance rate.

    Raises:
        DataError: the rates accepted unequal numbers of images, or the images from outside cannot be read.
    """
    sets = []
    if config.samples_from:
        sets.append(_import_outside(config.samples_from, inputs["images"], ctx))
    elif "samples" in inputs:
        samples = inputs["samples"]
        sets.append(ImageSet(SAMPLES, tuple(samples.uris("images/")), _sampling(samples.properties)))
    return sets + (_accepted_sets(inputs["accepted"]) if "accepted" in inputs else [])


def _sampling(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Temperature, guidance and filters, as the images' own artifact records them."""
    return {key: value for key, value in properties.get("protocol", {}).items() if key != "count"}


def _accepted_sets(selected: Artifact) -> list[ImageSet]:
    splits = {str(name): int(count) for name, count in selected.properties["splits"].items()}
    if len(set(splits.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(splits.items()))
        raise DataError(f"score: select accepted unequal numbers of images ({counts}), whose figures would not compare")
    sampling = _sampling(selected.properties) | {"selector": str(selected.properties["selector"])}
    sampling = {key: value for key, value in sampling.items() if key not in ("rate", "rates")}
    return [
        ImageSet(name, tuple(selected.uris(f"images/{name}-")), sampling | {"acceptance": name.removeprefix(ACCEPTED)})
        for name in sorted(splits, key=lambda name: -float(name.removeprefix(ACCEPTED)))
    ]


def _import_outside(uri: str, images: Artifact, ctx: Context) -> ImageSet:
    """Import a folder or npz file of images as an image table in the work folder."""
    from components.exchange import tables as exchange

    classes = [str(name) for name in images.properties.get("classes", [])]
    max_pixels = int(images.manifest.config["max_pixels"])
    uris = exchange.import_table(uri, io.join(ctx.work, "outside"), classes, max_pixels)
    return ImageSet(SAMPLES, tuple(uris), {"from": uri, "state": exchange.table_state(uri)})
