"""Which layout lies at `ingest.source`, and which class list and ground truth go with it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from components.ingest.labels import ARCHIVES, META, TRUTH, read_classes
from components.ingest.layouts import archives
from components.ingest.layouts.base import Job, Layout
from components.ingest.layouts.gzipped import SUFFIXES
from components.ingest.layouts.ilsvrc import WNID
from components.ingest.layouts.table import DEAD, MANIFEST
from components.ingest.layouts.tfrecord import NAMED
from components.ingest.layouts.webdataset import TARS
from vim_core.config import IngestConfig
from vim_core.data import folders
from vim_core.errors import DataError
from vim_core.storage import io

if TYPE_CHECKING:
    from collections.abc import Iterable

DIGITS = "builtin:digits"
KIT = "ILSVRC2012_devkit"
TRUTHS = (TRUTH, "LOC_val_solution.csv")
CLASS_LISTS = ("LOC_synset_mapping.txt", META)
FOLDERS = 8
"""Folders at the source that are looked into for files of many images."""


def check_source(config: IngestConfig) -> None:
    """Raise `DataError` for a built-in data set that does not exist or has no such split."""
    if config.source.startswith("builtin:") and config.source != DIGITS:
        raise DataError(f"ingest.source={config.source}: the only built-in data set is {DIGITS}")
    if config.source == DIGITS and config.split != "hash":
        raise DataError(f"ingest.split={config.split}: {DIGITS} is split by hash only; set ingest.split=hash")


def layout_of(config: IngestConfig) -> str:
    """The name of the layout: `ingest.layout`, or what the files at the source and in its first folders are.

    Raises:
        DataError: several kinds lie there.
    """
    check_source(config)
    if config.source == DIGITS:
        return "digits"
    if config.layout != "auto":
        return config.layout
    paths = list(_near(config.source))
    if MANIFEST in paths:
        return "table"
    kinds = {kind for path in paths if (kind := _kind(path))}
    if len(kinds) > 1:
        raise DataError(
            f"ingest.source={config.source}: holds {' and '.join(sorted(kinds))} files; set ingest.layout to one kind"
        )
    if kinds == {"tar"}:
        return _of_tars(config.source, [path for path in paths if _kind(path) == "tar"])
    if kinds == {"parquet"}:
        return _of_parquet(config.source, [path for path in paths if _kind(path)])
    return kinds.pop() if kinds else "folders"


def layout(name: str) -> Layout:
    """The module of a layout."""
    module: Layout = importlib.import_module(f"components.ingest.layouts.{name}")  # type: ignore[assignment]
    return module


def job_of(config: IngestConfig, name: str, work: str) -> Job:
    """What a layout may use; ILSVRC's own class list and ground truth are found beside its archives."""
    classes, truth = config.class_list, config.val_labels
    if name == "ilsvrc":
        beside = [path for path, entry in folders.list_folder(config.source) if entry and not entry.reason]
        kit = [path for path in beside if path.startswith(KIT) and path.endswith(ARCHIVES)]
        classes = classes or _first(config.source, [path for path in beside if path in CLASS_LISTS] + kit)
        truth = truth or _first(config.source, [path for path in beside if path in TRUTHS] + kit)
    return Job(config, work, read_classes(classes) if classes else None, truth)


def _first(source: str, names: list[str]) -> str:
    return io.join(source, names[0]) if names else ""


def _near(source: str) -> Iterable[str]:
    """Paths of the files at the source and in its first folders."""
    level = folders.list_folder(source)
    yield from (name for name, entry in level if entry is not None)
    for folder in [name for name, entry in level if entry is None][:FOLDERS]:
        yield from (f"{folder}/{name}" for name, entry in folders.list_folder(source, folder) if entry is not None)


def _kind(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    for kind, suffixes in (("tar", TARS), ("parquet", (".parquet",))):
        if name.endswith(suffixes) and not name.startswith((KIT, DEAD)):
            return kind
    return "tfrecord" if NAMED.match(name) else ""


def _of_parquet(source: str, paths: list[str]) -> str:
    from vim_core.data.image_tables import IMAGE_SCHEMA, open_parquet

    schema = open_parquet(io.join(source, paths[0])).schema_arrow
    return "table" if schema.equals(IMAGE_SCHEMA, check_metadata=False) else "parquet"


def _of_tars(source: str, paths: list[str]) -> str:
    """Archives of ILSVRC are called so, hold tars, or are called as the class of the images in them."""
    path = min(paths, key=lambda path: path.endswith(SUFFIXES))  # a plain one tells more
    name = path.rsplit("/", 1)[-1]
    if name.startswith("ILSVRC") or WNID.fullmatch(name.removesuffix(".tar")):
        return "ilsvrc"
    if name.endswith(SUFFIXES):
        return "webdataset"
    return "ilsvrc" if archives.first(io.join(source, path)).endswith(".tar") else "webdataset"
