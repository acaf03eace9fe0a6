"""Settings of the components that make tables of images and codes: ingest, tokenize, reconstruct."""

from __future__ import annotations

from dataclasses import dataclass, field

from vim_core.config.fields import Count, InnerShare, PositiveInt, Ranged, Seed, Share, execution, one_of, require
from vim_core.config.training import AugmentConfig

LAYOUTS = ("auto", "folders", "ilsvrc", "webdataset", "tfrecord", "parquet", "table")


@dataclass
class IngestConfig(Ranged):
    """Images in, image table out.

    `source` is `builtin:digits` or a local or remote folder. `layout` is its file layout: class folders, ILSVRC's
    archives, WebDataset shards, TFRecord files, Parquet as on Hugging Face, or another image table; `auto` detects it.

    With `split: hash` a share `test_fraction` of the keys is held out; with `split: folders` the source's own
    validation part (`val/` beside `train/`, or files with that word in their names); with `split: lists` the text
    files `train_list` and `test_list` (paths or URIs) name the images of each split, one path or stem per line (rules
    in vim_core/data/folders.py), and images in neither are left out.
    With `labelled: false` no classes are needed and every label is -1, whatever the split.

    `keys: auto` makes a key of the file's ILSVRC stem if it has one, else of the image's content, so that every layout
    of the same data gives the same keys; `content` ignores the name, `path` is the path below the source.

    In Parquet files `image_column` and `label_column` name the columns where names and metadata leave a doubt.
    With `label_numbers: keep` a label that is a number stays that number, and labels of which most do not occur are
    refused; `map` numbers those that occur in their order. `links` says where links may lead: `inside` the source
    (and to the blobs of Hugging Face's cache), or `anywhere`.

    Images of more than `max_pixels` pixels or `max_bytes` bytes go to the dead letters; a compressed file of many
    images that unpacks to more than `max_expansion` times its size is refused.

    `class_list` and `val_labels` are paths or URIs of ILSVRC's class list (wnids and names) and of the classes of its
    held-out images, in the forms of components/ingest/labels.py.

    `source_digest` stands for the state of the source, which is then not listed to see whether it changed. `classes`
    are names of classes by label (empty: those of the source). `resize` stores squares of this side (0: images as
    they are). `limit` takes this many images, by a hash of their keys (0: all). `shards` is the number of files of
    each split. A share of unusable images above `max_bad_share` ends the ingest.
    """

    source: str = "builtin:digits"
    source_digest: str = ""
    layout: str = "auto"
    keys: str = "auto"
    classes: list[str] = field(default_factory=list)
    labelled: bool = True
    split: str = "hash"
    test_fraction: InnerShare = 0.165
    # Addresses; the content of the lists enters the fingerprint.
    train_list: str = execution("")
    test_list: str = execution("")
    class_list: str = execution("")
    val_labels: str = execution("")
    # What these change enters the fingerprint with the state of the source, where they are set.
    image_column: str = execution("")
    label_column: str = execution("")
    label_numbers: str = execution("keep")
    links: str = execution("inside")
    resize: Count = 0
    limit: Count = 0
    shards: PositiveInt = 4
    max_bad_share: Share = 0.01
    max_pixels: PositiveInt = 100_000_000
    max_bytes: PositiveInt = 1 << 28
    # A limit that is not reached does not change the result.
    max_expansion: PositiveInt = execution(100)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("ingest.split", self.split, ("hash", "folders", "lists"))
        one_of("ingest.layout", self.layout, LAYOUTS)
        one_of("ingest.keys", self.keys, ("auto", "content", "path"))
        one_of("ingest.label_numbers", self.label_numbers, ("keep", "map"))
        one_of("ingest.links", self.links, ("inside", "anywhere"))
        for name, value in (("train_list", self.train_list), ("test_list", self.test_list)):
            rule = "name a text file for ingest.split=lists" if not value else "is read for ingest.split=lists only"
            require(bool(value) == (self.split == "lists"), f"ingest.{name}", value, rule)
        require(self.labelled or not self.classes, "ingest.classes", self.classes, "has no use with labelled=false")
        rule = "ingest.classes is given too"
        require(not (self.classes and self.class_list), "ingest.class_list", self.class_list, rule)


@dataclass
class TokenizeConfig(Ranged):
    """Image table to code table; view 0 is the plain image, the others are augmented.

    `engine` is beam, or ray for hosts that Beam cannot reach, such as those of a TPU slice (one actor on each of
    `run.workers`); the codes are the same.

    `views` is the number of views of each training image, and `seed` draws the augmented ones.
    """

    views: PositiveInt = 1
    seed: Seed = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    engine: str = execution("beam")

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("tokenize.engine", self.engine, ("beam", "ray"))


@dataclass
class ReconstructConfig(Ranged):
    """Held-out images through the tokenizer and back; `limit` is their maximal number (0: all)."""

    limit: Count = 0
