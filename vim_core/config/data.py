"""Settings of the components that move images and codes."""

from __future__ import annotations

from dataclasses import dataclass, field

from vim_core.config.fields import one_of, require, where
from vim_core.config.training import AugmentConfig


@dataclass
class IngestConfig:
    """Images in, image table out.

    `source` is `builtin:digits` or a local or remote folder of class folders; with `split: folders` it
    has `train/` and `val/` above them, with `split: hash` a share `test_fraction` of the keys is held out,
    with `split: lists` the text files `train_list` and `test_list` (paths or URIs) name the images of either
    side, one path or stem a line (rules in vim_core/data/lists.py), and images in neither are left out.
    With `labelled: false` no class folders are needed and every label is -1, whatever the split.
    """

    source: str = "builtin:digits"
    source_digest: str = ""
    classes: list[str] = field(default_factory=list)
    labelled: bool = True
    split: str = "hash"
    test_fraction: float = 0.165
    # Where the lists lie; what they say enters the fingerprint by content.
    train_list: str = where("")
    test_list: str = where("")
    resize: int = 0
    limit: int = 0
    shards: int = 4
    max_bad_share: float = 0.01
    max_pixels: int = 100_000_000

    def __post_init__(self) -> None:
        one_of("ingest.split", self.split, ("hash", "folders", "lists"))
        for name, value in (("train_list", self.train_list), ("test_list", self.test_list)):
            rule = "name a text file for ingest.split=lists" if not value else "is read for ingest.split=lists only"
            require(bool(value) == (self.split == "lists"), f"ingest.{name}", value, rule)
        require(self.labelled or not self.classes, "ingest.classes", self.classes, "has no use with labelled=false")
        require(0 < self.test_fraction < 1, "ingest.test_fraction", self.test_fraction, "must lie in (0, 1)")
        require(0 <= self.max_bad_share <= 1, "ingest.max_bad_share", self.max_bad_share, "must lie in [0, 1]")
        require(self.shards > 0, "ingest.shards", self.shards, "must be positive")


@dataclass
class StatisticsConfig:
    """Reference statistics of real images under one feature network.

    `split` is what others are compared with. The images of the splits in `halves` are divided in two, whose distance
    shows what real images score against real ones; take as many as there are, because small sets lie further apart.
    """

    network: str = "classifier"
    split: str = "test"
    halves: list[str] = field(default_factory=lambda: ["test"])
    batch: int = 64

    def __post_init__(self) -> None:
        one_of("statistics.network", self.network, ("classifier",))
        require(bool(self.halves), "statistics.halves", self.halves, "must name a split")
        for split in (self.split, *self.halves):
            one_of("statistics.split" if split == self.split else "statistics.halves", split, ("train", "test"))


@dataclass
class TokenizeConfig:
    """Image table to code table; view 0 is the plain image, the others are augmented."""

    views: int = 1
    seed: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        require(self.views > 0, "tokenize.views", self.views, "must be positive")


@dataclass
class ReconstructConfig:
    """Held-out images through the tokenizer and back."""

    limit: int = 0
