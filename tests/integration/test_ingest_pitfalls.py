"""Sources that people have: no image vanishes, no label is misread, and what cannot be read is named at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_ingest_layouts import (
    WNIDS,
    compressed,
    photos,
    picture,
    reasons_by_source,
    run_ingest,
    settings,
)
from tests.support import layouts
from vim_core.config import IngestConfig

PICTURES = [picture(1000 + number) for number in range(16)]


def join(source: Path, pattern: str) -> Path:
    """The first of the files that match, followed by the others, as `cat` joins them."""
    first, *others = sorted(source.rglob(pattern))
    first.write_bytes(b"".join(path.read_bytes() for path in (first, *others)))
    for path in others:
        path.unlink()
    return source


def joined_shards(root: Path) -> Path:
    return join(layouts.webdataset(root, photos()), "train-*")


def joined_compressed_shards(root: Path) -> Path:
    return join(compressed(layouts.webdataset(root, photos())), "train-*")


def joined_class_tars(root: Path) -> Path:
    """Inside the training tar too, each class is two tars joined."""
    source = layouts.ilsvrc(root, photos())
    inner = []
    for wnid in WNIDS:
        files = [(p.file, p.data) for p in photos() if (p.side, p.wnid) == ("train", wnid)]
        halves = [layouts.tar(root.parent / "half.tar", part).read_bytes() for part in (files[:2], files[2:])]
        inner.append((f"{wnid}.tar", b"".join(halves)))
    layouts.tar(source / "ILSVRC2012_img_train.tar", inner)
    return source


def linked_class(root: Path) -> Path:
    source = layouts.class_folders(root, photos())
    (source / "train" / WNIDS[1]).rename(source / ".kept")
    (source / "train" / WNIDS[1]).symlink_to(source / ".kept")
    return source


def with_system_files(layout: str) -> Callable[[Path], Path]:
    """What macOS, Windows and a network storage leave, between the files of each sample."""

    def write(root: Path) -> Path:
        source = layouts.ALL[layout](root, photos())
        for folder in {path.parent for path in source.rglob("*")} | {source / "__MACOSX"}:
            folder.mkdir(exist_ok=True)
            (folder / "Thumbs.db").write_bytes(b"x")
            (folder / "._train-0.tar").write_bytes(b"x")
        if layout == "webdataset":
            files = []
            for photo in (photo for photo in photos() if photo.side == "train"):
                for name, data in ((f"{photo.stem}.jpg", photo.data), (f"{photo.stem}.cls", b"")):
                    label = str(WNIDS.index(photo.wnid)).encode()
                    files += [(f"./{name}", data or label), (f"./._{name}", b"x"), (f"__MACOSX/._{name}", b"x")]
            layouts.tar(source / "train-000000.tar", files)
            (source / "train-000001.tar").unlink()
        return source

    return write


@pytest.mark.parametrize(
    "write",
    [
        joined_shards, joined_compressed_shards, joined_class_tars, linked_class,
        with_system_files("folders"), with_system_files("webdataset"), with_system_files("parquet"),
    ],
)  # fmt: skip
def test_every_image_is_read(write: Callable[[Path], Path], tmp_path: Path) -> None:
    outcome, ctx = run_ingest(tmp_path, settings(write(tmp_path / "source")))
    properties = outcome.properties
    assert (properties["read"], properties["written"], properties["dead_letter"]) == (21, 21, 0)
    assert properties["class_counts"] == {"train": [5, 5, 5], "test": [2, 2, 2]}
    left_out = properties["left_out_kinds"]
    assert any("files are left out" in note for note in ctx.progress.notes) == bool(left_out)
    if write.__name__ == "write":
        assert left_out["._*"] >= 2
        assert left_out["__MACOSX"] >= 1
        assert left_out["Thumbs.db"] >= 1


def flat(source: Path, **changes: Any) -> IngestConfig:
    return IngestConfig(**{"source": str(source), "shards": 1, "test_fraction": 0.3, "max_bad_share": 0.5, **changes})


def shard(root: Path, files: list[tuple[str, bytes]]) -> Path:
    layouts.tar(root / "photos-0.tar", files)
    return root


@pytest.mark.parametrize(
    ("names", "written", "reason"),
    [
        # A key that comes again, and one whose files are not neighbours.
        (["a.jpg", "a.cls", "a.jpg", "a.cls", "b.jpg", "b.cls", "c.jpg", "c.cls"], 4, ""),
        (["a.jpg", "b.jpg", "b.cls", "c.jpg", "c.cls", "a.cls"], 2, "no class in its .cls or .json"),
        (["a.jpg", "a.JPG", "a.cls", "b.jpg", "b.cls", "c.jpg", "c.cls"], 3, "no class in its .cls or .json"),
        # Dots in the keys: one sample to WebDataset, two images to people.
        (["v1.0.jpg", "v1.0.cls", "v1.1.jpg", "v1.1.cls", "b.jpg", "b.cls", "c.jpg", "c.cls"], 2, "first dot"),
    ],
)
def test_samples_of_a_shard_are_all_accounted_for(names: list[str], written: int, reason: str, tmp_path: Path) -> None:
    files = [(name, b"0" if name.endswith("cls") else PICTURES[index]) for index, name in enumerate(names)]
    outcome, ctx = run_ingest(tmp_path, flat(shard(tmp_path / "in", files), test_fraction=0.5, max_bad_share=1))
    pictures = sum(name.lower().endswith("jpg") for name in names)
    assert outcome.properties["written"] == written
    reasons = reasons_by_source(ctx)
    assert sum(".jpg" in source.lower() for source in reasons) == pictures - written
    assert any(reason in text for text in reasons.values()) == bool(reason)
    assert all(len(text) < 150 for text in reasons.values())
