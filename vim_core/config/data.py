"""Settings of the components that move images and codes."""

from __future__ import annotations

from dataclasses import dataclass, field

from vim_core.config.fields import execution, one_of, require
from vim_core.config.training import AugmentConfig

LAYOUTS = ("auto", "folders", "ilsvrc", "webdataset", "tfrecord", "parquet", "table")


@dataclass
class IngestConfig:
    """Images in, image table out.

    `source` is `builtin:digits` or a local or remote folder. `layout` says how images lie in it: class folders,
    ILSVRC's own archives, WebDataset shards, TFRecord files, Parquet as Hugging Face has it, or another image table;
    `auto` looks. With `split: hash` a share `test_fraction` of the keys is held out; with `split: folders` the source's
    own validation part is (`val/` beside `train/`, or files with that word in their names); with `split: lists` the
    text files `train_list` and `test_list` (paths or URIs) name the images of either side, one path or stem a line
    (rules in vim_core/data/split_lists.py), and images in neither are left out.
    With `labelled: false` no classes are needed and every label is -1, whatever the split.

    `keys: auto` names an image by its ILSVRC stem where its file has one, else by its content, so that every layout of
    the same data gives the same keys; `content` never looks at the name, `path` keeps the path below the source.

    Images of more than `max_pixels` pixels or `max_bytes` bytes are set aside; a compressed file of many images that
    unpacks to more than `max_expansion` times its size is refused.

    `class_list` and `val_labels` are paths or URIs of ILSVRC's class list (wnids and names) and of the classes of its
    held-out images, in the forms of components/ingest/labels.py.
    """

    source: str = "builtin:digits"
    source_digest: str = ""
    layout: str = "auto"
    keys: str = "auto"
    classes: list[str] = field(default_factory=list)
    labelled: bool = True
    split: str = "hash"
    test_fraction: float = 0.165
    # Where the lists lie; what they say enters the fingerprint by content.
    train_list: str = execution("")
    test_list: str = execution("")
    class_list: str = execution("")
    val_labels: str = execution("")
    resize: int = 0
    limit: int = 0
    shards: int = 4
    max_bad_share: float = 0.01
    max_pixels: int = 100_000_000
    max_bytes: int = 1 << 28
    # A limit that is kept changes nothing.
    max_expansion: int = execution(100)

    def __post_init__(self) -> None:
        one_of("ingest.split", self.split, ("hash", "folders", "lists"))
        one_of("ingest.layout", self.layout, LAYOUTS)
        one_of("ingest.keys", self.keys, ("auto", "content", "path"))
        for name, value in (("train_list", self.train_list), ("test_list", self.test_list)):
            rule = "name a text file for ingest.split=lists" if not value else "is read for ingest.split=lists only"
            require(bool(value) == (self.split == "lists"), f"ingest.{name}", value, rule)
        require(self.labelled or not self.classes, "ingest.classes", self.classes, "has no use with labelled=false")
        require(
            not (self.classes and self.class_list), "ingest.class_list", self.class_list, "ingest.classes is given too"
        )
        require(0 < self.test_fraction < 1, "ingest.test_fraction", self.test_fraction, "must lie in (0, 1)")
        require(0 <= self.max_bad_share <= 1, "ingest.max_bad_share", self.max_bad_share, "must lie in [0, 1]")
        for most in ("shards", "max_pixels", "max_bytes", "max_expansion"):
            require(getattr(self, most) > 0, f"ingest.{most}", getattr(self, most), "must be positive")


@dataclass
class StatisticsConfig:
    """Reference statistics of real images under one feature network.

    `split` is what others are compared with. The images of the splits in `halves` are divided in two, whose distance
    shows what real images score against real ones; take as many as there are, because small sets lie further apart.

    `network` is the pipeline's own 'classifier', 'inception' (of FID) or 'torchvision:<name>'; the latter two read
    `weights` (path or URI of a .pth or .safetensors file), whose hash begins with `weights_sha256` (empty: that of the
    published network of FID), after bringing images to squares of `image_size` (0: as they are). `score_splits` (0:
    none) is over how many splits of the images an Inception Score is averaged, `features` (0: none) how many images
    at most precision and recall look at. `reference` names a file of published statistics to compare samples with
    besides; `reference_sha256` saves asking whether it changed. `export` writes the split's as mu and sigma. `spatial`
    keeps the moments of the network's spatial features too, which sFID compares (only of inception).
    """

    network: str = "classifier"
    # Where the files lie; their content enters the fingerprint by hash, the reference's otherwise by size and date.
    weights: str = execution("")
    weights_sha256: str = ""
    image_size: int = 0
    split: str = "test"
    halves: list[str] = field(default_factory=lambda: ["test"])
    score_splits: int = 0
    features: int = 0
    reference: str = execution("")
    reference_sha256: str = ""
    export: bool = False
    spatial: bool = False
    batch: int = 64

    def __post_init__(self) -> None:
        self._check_network()
        require(bool(self.halves), "statistics.halves", self.halves, "must name a split")
        require(self.score_splits >= 0, "statistics.score_splits", self.score_splits, "must be 0 (none) or positive")
        rule = "must be 0 (none) or above 5, the neighbours that density and coverage look at"
        require(self.features == 0 or self.features > 5, "statistics.features", self.features, rule)
        rule = "sFID's spatial features are of statistics.network=inception"
        require(not self.spatial or self.network == "inception", "statistics.spatial", self.spatial, rule)
        rule = "has no use without statistics.reference"
        require(
            bool(self.reference) or not self.reference_sha256,
            "statistics.reference_sha256",
            self.reference_sha256,
            rule,
        )
        for split in (self.split, *self.halves):
            one_of("statistics.split" if split == self.split else "statistics.halves", split, ("train", "test"))

    def _check_network(self) -> None:
        named = self.network.startswith("torchvision:")
        rule = "must be one of classifier, inception, torchvision:<name>"
        require(named or self.network in ("classifier", "inception"), "statistics.network", self.network, rule)
        require(self.image_size >= 0, "statistics.image_size", self.image_size, "must be 0 (as they are) or positive")
        for name, value in (("weights_sha256", self.weights_sha256), ("reference_sha256", self.reference_sha256)):
            hexadecimal = len(value) in range(8, 65) and set(value) <= set("0123456789abcdef")
            rule = "must be the first 8 to 64 hex digits of the file's sha256"
            require(not value or hexadecimal, f"statistics.{name}", value, rule)
        if self.network == "classifier":
            rule = "is read for statistics.network=inception or torchvision:<name> only"
            for name in ("weights", "weights_sha256", "image_size"):
                require(not getattr(self, name), f"statistics.{name}", getattr(self, name), rule)
        rule = "must be given for a network of torchvision: `sha256sum` prints it"
        require(not named or bool(self.weights_sha256), "statistics.weights_sha256", self.weights_sha256, rule)


@dataclass
class TokenizeConfig:
    """Image table to code table; view 0 is the plain image, the others are augmented.

    `engine` is what runs it: beam, or ray for hosts that Beam cannot reach, such as those of a TPU slice: one actor on
    each of `run.workers`. The codes are the same.
    """

    views: int = 1
    seed: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    engine: str = execution("beam")

    def __post_init__(self) -> None:
        require(self.views > 0, "tokenize.views", self.views, "must be positive")
        one_of("tokenize.engine", self.engine, ("beam", "ray"))


@dataclass
class ReconstructConfig:
    """Held-out images through the tokenizer and back."""

    limit: int = 0
