"""Sources that people have: no image vanishes, no label is misread, and what cannot be read is named at once."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.ingest.detect_layout import LAYOUTS, detect_layout, scan_context
from components.ingest.layouts import archives, ilsvrc, parquet, tfrecord
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
from vim_core.errors import DataError
from vim_core.storage import io

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


def class_tree(root: Path, *folders: str, each: int = 2) -> Path:
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        for index in range(each):
            (root / folder / f"{index}.jpg").write_bytes(PICTURES[(each * number + index) % len(PICTURES)])
    return root


@pytest.mark.parametrize(
    ("train", "held_out", "unused"),
    [
        ("Train", "Test", ""), ("training", "valid", "test"), ("TRAIN", "Validation", "TEST"),
        ("train", "held-out", ""),
        ("train2017", "val2017", "test2017"), ("train", "hold_out", "testing"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("packed", [False, True])
def test_one_rule_for_the_names_of_splits(train: str, held_out: str, unused: str, packed: bool, tmp_path: Path) -> None:
    sides = [train, held_out, *([unused] if unused else [])]
    source = class_tree(tmp_path / "in", *(f"{side}/{name}" for side in sides for name in ("ant", "bee")))
    if packed:
        for side in sides:
            for folder in ("ant", "bee"):
                layouts.tar(source / side / f"{folder}.tar", [("a.jpg", b"x")])
    config = flat(source, split="folders", layout="webdataset" if packed else "folders")
    context = scan_context(config, detect_layout(config), str(tmp_path / "work"))
    parts = LAYOUTS[config.layout].find_parts(context)
    suffix = ".tar" if packed else ""
    expected = {
        f"{side}/{name}{suffix}": split
        for side, split in ((train, "train"), (held_out, "test"))
        for name in ("ant", "bee")
    }
    assert {part.path: part.split for part in parts.parts if part.kind != "loose"} == expected
    left_out = [f"{unused}/ant.tar", f"{unused}/bee.tar"] if packed else [f"{unused}/"]
    assert parts.left_out == (left_out if unused else [])


def test_class_folders_in_other_letter_case_go_through(tmp_path: Path) -> None:
    source = class_tree(tmp_path / "in", "Train/ant", "Train/bee", "valid/ant", "valid/bee", "TEST/ant")
    outcome, ctx = run_ingest(tmp_path, flat(source, split="folders"))
    assert outcome.properties["class_counts"] == {"train": [2, 2], "test": [2, 2]}
    assert (outcome.properties["left_out_files"], outcome.properties["dead_letter"]) == (["TEST/"], 0)
    assert any("for neither split" in note for note in ctx.progress.notes)


@pytest.mark.parametrize(
    ("folders", "changes", "message"),
    [
        (["train/a", "train/b", "val/a"], {}, r"train/ and val/ are splits, not classes; set ingest\.split=folders"),
        (["Train/a", "Train/b", "test/a", "valid/b"], {}, "Train/ and test/ and valid/ are splits"),
        (["photos/a", "photos/b"], {}, r"holds photos/ alone, .*a/, b/.* set ingest\.source=.*in/photos"),
        (["train/a", "train/b"], {}, r"holds train/ alone, .*set ingest\.source=.*in/train"),
        (["photos/train/a", "photos/val/a"], {"split": "folders"}, r"set ingest\.source=.*in/photos"),
        (["photos/train/a", "photos/val/a"], {}, r"set ingest\.source=.*in/photos"),
    ],
)
def test_another_level_than_the_classes_is_refused(
    folders: list[str], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    source = class_tree(tmp_path / "in", *folders)
    with pytest.raises(DataError, match=message):
        run_ingest(tmp_path, flat(source, **changes))


@pytest.mark.parametrize(
    ("folders", "changes"),
    [
        (["train/a", "val/b"], {"classes": ["train", "val"]}),
        (["photos/a", "photos/b"], {"classes": ["photos"]}),
        (["train/a", "val/a"], {"labelled": False}),
        (["train/x", "express/x", "car/x"], {}),
    ],
)
def test_folders_that_are_meant_so_are_classes(folders: list[str], changes: dict[str, Any], tmp_path: Path) -> None:
    outcome, _ = run_ingest(tmp_path, flat(class_tree(tmp_path / "in", *folders), test_fraction=0.5, **changes))
    known = [] if "labelled" in changes else sorted({folder.split("/")[0] for folder in folders})
    assert outcome.properties["classes"] == known
    assert outcome.properties["written"] == 2 * len(folders)


def unlisted(folder: Path) -> None:
    """Links to nothing: known before a file is read."""
    for path in list(folder.iterdir()):
        path.unlink()
        path.symlink_to(folder / "gone.jpg")


def damaged(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(b"no image")


@pytest.mark.parametrize("spoil", [unlisted, damaged])
@pytest.mark.parametrize("split", ["hash", "folders"])
def test_a_whole_class_never_vanishes_under_a_share(spoil: Callable[[Path], None], split: str, tmp_path: Path) -> None:
    names = ["a", "b", "c"] if split == "hash" else ["train/a", "train/b", "val/a", "val/b"]
    source = class_tree(tmp_path / "in", *names)
    spoil(source / names[1])
    message = r"(none of the 2 (train/ )?files|all 2 (training )?images) of class 'b' .*, whatever"
    with pytest.raises(DataError, match=message):
        run_ingest(tmp_path, flat(source, split=split, max_bad_share=0.9))


def test_pictures_beside_an_archive_are_not_passed_over(tmp_path: Path) -> None:
    source = class_tree(tmp_path / "in", "a", "b", each=6)
    layouts.tar(source / "a/backup.tar", [("x.jpg", PICTURES[0])])
    with pytest.raises(DataError, match=r"holds pictures and tar files \(a/backup\.tar\); set ingest\.layout=folders"):
        run_ingest(tmp_path, flat(source))
    outcome, ctx = run_ingest(tmp_path, flat(source, layout="folders"))
    assert (outcome.properties["written"], len(reasons_by_source(ctx))) == (12, 1)
    with pytest.raises(DataError, match="cannot be used"):
        run_ingest(tmp_path, flat(source, layout="webdataset", max_bad_share=0))


def test_parquet_files_that_cannot_be_joined_are_refused(tmp_path: Path) -> None:
    joined = join(layouts.hugging_face(tmp_path / "joined", photos()), "*.parquet")
    (joined / "data/train-00000-of-00001.parquet").rename(joined / "photos.parquet")
    with pytest.raises(DataError, match=r"photos\.parquet: holds several Parquet files joined"):
        run_ingest(tmp_path / "1", flat(joined))
    other = layouts.hugging_face(tmp_path / "other", photos())
    few = [photo for photo in photos() if photo.wnid != WNIDS[0]]
    layouts.hugging_face(tmp_path / "few", few)
    name = "data/validation-00000-of-00001.parquet"
    (tmp_path / "few" / name).replace(other / name)
    with pytest.raises(DataError, match=rf"{name}: names other classes than the first file"):
        run_ingest(tmp_path / "2", settings(other))


def broken(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


@pytest.mark.parametrize("layout", ["folders", "webdataset", "tfrecord", "parquet", "ilsvrc"])
def test_a_failing_disk_is_one_line(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In class folders each file has the reason; of files of many images nobody knows how much is lost."""
    source = layouts.ALL[layout](tmp_path / "source", photos())
    config = settings(source)
    monkeypatch.setattr(io, "read_regular", broken)
    monkeypatch.setattr(archives, "walk", broken)
    monkeypatch.setattr(ilsvrc, "walk", broken)
    monkeypatch.setattr(tfrecord, "records", broken)
    monkeypatch.setattr(parquet, "find_columns", broken)
    with pytest.raises(DataError, match=r"cannot be read( further)?.*Stale file handle") as error:
        run_ingest(tmp_path, config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["photos-0.tar", "photos.parquet", "photos.tfrecord"])
def test_a_pipe_in_place_of_a_file_of_many_images_is_refused(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name}: a FIFO, socket or device, not a file"):
        run_ingest(tmp_path / "out", flat(tmp_path))
