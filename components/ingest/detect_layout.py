"""All layouts; recognising the one at `ingest.source`, and the class list and ground truth that go with it."""

from __future__ import annotations

from components.ingest.labels import ARCHIVES, META_FILE, TRUTH_FILE, read_classes
from components.ingest.layouts import archives, ilsvrc, parquet, tfrecord, webdataset
from components.ingest.layouts import folders as class_folders
from components.ingest.layouts.base import PICTURES, Layout, ScanContext, refuse_unusable
from vim_core.config import IngestConfig
from vim_core.data import folders
from vim_core.data.folders import FileEntry
from vim_core.errors import DataError
from vim_core.storage import io

DIGITS = "builtin:digits"
KIT = "ILSVRC2012_devkit"
TRUTH_FILES = (TRUTH_FILE, "LOC_val_solution.csv")
CLASS_FILES = ("LOC_synset_mapping.txt", META_FILE)
LAYOUTS = {
    "digits": Layout(class_folders.find_digits, class_folders.scan_digits),
    "folders": Layout(class_folders.find_parts, class_folders.scan_part),
    "ilsvrc": Layout(ilsvrc.find_parts, ilsvrc.scan_part),
    "webdataset": Layout(webdataset.find_parts, webdataset.scan_part),
    "tfrecord": Layout(tfrecord.find_parts, tfrecord.scan_part),
    "parquet": Layout(parquet.find_parts, parquet.scan_part),
    "table": Layout(parquet.find_table_parts, parquet.scan_table_part),
}
FOLDERS = 8
"""Folders at the source that are searched for files of many images."""


def check_source(config: IngestConfig) -> None:
    """Raise `DataError` for a built-in data set that does not exist or has no such split."""
    if config.source.startswith("builtin:") and config.source != DIGITS:
        raise DataError(f"ingest.source={config.source}: the only built-in data set is {DIGITS}")
    if config.source == DIGITS and config.split != "hash":
        raise DataError(f"ingest.split={config.split}: {DIGITS} is split by hash only; set ingest.split=hash")


def detect_layout(config: IngestConfig) -> str:
    """The name of the layout: `ingest.layout`, or by the files at the source and in its first folders.

    Raises:
        DataError: files of several kinds are there, or one of many images is unusable.
    """
    check_source(config)
    if config.source == DIGITS:
        return "digits"
    if config.layout != "auto":
        return config.layout
    source, files = config.source, _first_files(config)
    if any(file.path == parquet.MANIFEST for file in files):
        return "table"
    kinds = {file.path: kind for file in files if (kind := _kind(file.path))}
    present = sorted(set(kinds.values()))
    if len(present) > 1:
        raise DataError(f"ingest.source={source}: holds {' and '.join(present)} files; set ingest.layout to one kind")
    for file in files:  # some are opened below, and a FIFO would block
        if file.path in kinds:
            refuse_unusable(file)
    pictures = sum(file.path.lower().endswith(PICTURES) for file in files)
    if present and pictures > len(kinds):
        raise DataError(
            f"ingest.source={source}: holds pictures and {present[0]} files ({min(kinds)}); set ingest.layout=folders, "
            "or to the kind of these files: the others are left out"
        )
    if present == ["tar"]:
        return _tar_layout(source, list(kinds))
    if present == ["parquet"]:
        from vim_core.data.image_tables import IMAGE_SCHEMA, open_parquet

        schema = open_parquet(io.join(source, next(iter(kinds)))).schema_arrow
        return "table" if schema.equals(IMAGE_SCHEMA, check_metadata=False) else "parquet"
    return present[0] if present else "folders"


def _first_files(config: IngestConfig) -> list[FileEntry]:
    """The files at the source and in its first folders."""
    level = folders.list_folder(config.source, "", config.links)
    files = [entry for _, entry in level if entry is not None]
    for folder in [name for name, entry in level if entry is None][:FOLDERS]:
        below = folders.list_folder(config.source, folder, config.links)
        files += [entry for _, entry in below if entry is not None]
    return files


def _kind(path: str) -> str:
    """'tar', 'parquet' or 'tfrecord' by the name of a file; '' for others and for files beside the images."""
    name = path.rsplit("/", 1)[-1]
    for kind, suffixes in (("tar", webdataset.TARS), ("parquet", (".parquet",))):
        if name.endswith(suffixes) and not name.startswith((KIT, parquet.DEAD_LETTERS)):
            return kind
    return "tfrecord" if tfrecord.FILE_NAME.match(name) else ""


def _tar_layout(source: str, paths: list[str]) -> str:
    """ILSVRC's archives have its name, hold tars, or have the class of their images as name."""
    # The members of an uncompressed tar can be read.
    path = min(paths, key=lambda path: path.endswith(archives.SUFFIXES))
    name = path.rsplit("/", 1)[-1]
    if name.startswith("ILSVRC") or ilsvrc.WNID.fullmatch(name.removesuffix(".tar")):
        return "ilsvrc"
    if name.endswith(archives.SUFFIXES):
        return "webdataset"
    return "ilsvrc" if archives.first_name(io.join(source, path)).endswith(".tar") else "webdataset"


def scan_context(config: IngestConfig, layout: str, work: str) -> ScanContext:
    """The layout's inputs; for ILSVRC, class list and ground truth come from beside the archives."""
    classes, truth = config.class_list, config.val_labels
    if layout == "ilsvrc":
        level = folders.list_folder(config.source, "", config.links)
        files = [path for path, entry in level if entry and not entry.reason]
        kit = [path for path in files if path.startswith(KIT) and path.endswith(ARCHIVES)]

        def first(names: tuple[str, ...]) -> str:
            named = [path for path in files if path in names] + kit
            return io.join(config.source, named[0]) if named else ""

        classes, truth = classes or first(CLASS_FILES), truth or first(TRUTH_FILES)
    return ScanContext(config, work, read_classes(classes) if classes else None, truth)
