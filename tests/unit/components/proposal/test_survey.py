"""What a look at a source tells agrees with what ingest makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from components.artifacts.counts import counted
from components.ingest import component as ingest
from components.proposal.document import describe
from components.proposal.survey import survey
from tests.support.ingested import kept
from tests.support.layouts import tar
from tests.support.synthetic import context_of
from vim_core.config import IngestConfig
from vim_core.errors import DataError
from vim_core.storage import io

Folder = Callable[[str], Path]
SEEN = {
    "three": ("hash", True, ("disc", "square", "triangle"), (60, 60, 60), "180 images, 3 classes of 60 each"),
    "two": ("hash", True, ("disc", "square"), (12, 12), "24 images, 2 classes of 12 each"),
    "one": ("hash", True, ("disc",), (20,), "20 images, one class, 'disc', of 20"),
    "unlabelled": ("hash", False, (), (), "80 images, no classes"),
    "split": ("folders", True, ("disc", "square"), (20, 20), "20 of them held out by the source's own folders"),
}


@pytest.mark.parametrize("name", SEEN)
def test_classes_counts_and_splits_are_seen(pictures: Folder, tmp_path: Path, name: str) -> None:
    found = survey(str(pictures(name)), str(tmp_path))
    split, labelled, classes, counts, text = SEEN[name]
    assert (found.layout, found.split, found.labelled, found.classes) == ("folders", split, labelled, classes)
    assert found.class_counts == counts
    assert (found.complete, found.colour, found.bad_share) == (True, 1.0, 0.0)
    assert 72 <= found.sides[0] <= found.side <= found.sides[-1] <= 96
    assert text in describe(found)
    assert describe(found).count("in colour") == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two", "split"])
def test_counts_are_those_of_ingest_to_the_key(pictures: Folder, tmp_path: Path, name: str) -> None:
    found = survey(str(pictures(name)), str(tmp_path / "work"))
    config = IngestConfig(source=found.source, split=found.split, test_fraction=0.25, shards=1)
    ctx = context_of(tmp_path, "ingest")
    actual, expected = counted(kept(ingest.run(config, {}, ctx), ctx, config)), found.counts(0.25)
    assert expected.splits == actual.splits
    assert expected.classes == tuple(actual.classes)
    assert expected.class_counts == actual.class_counts
    for split in ("train", "test"):
        assert sorted(expected.keys(split)) == sorted(actual.keys(split))


def test_packed_images_are_seen_through_the_same_layouts(pictures: Folder, tmp_path: Path) -> None:
    files = sorted(pictures("two").rglob("*.png"))
    members = [(f"{i:03d}.{end}", data) for i, path in enumerate(files)
               for end, data in (("png", path.read_bytes()), ("cls", str(i % 3).encode()))]  # fmt: skip
    tar(tmp_path / "packed" / "images-000.tar", members)
    found = survey(str(tmp_path / "packed"), str(tmp_path / "work"))
    assert (found.layout, found.labelled, found.classes, found.class_counts) == (
        "webdataset", True, ("0", "1", "2"), (8, 8, 8),
    )  # fmt: skip


def test_an_address_is_looked_at_like_a_folder(pictures: Folder, tmp_path: Path) -> None:
    for path in pictures("two").rglob("*.png"):
        io.write_bytes(f"memory://survey/two/{path.parent.name}/{path.name}", path.read_bytes())
    there, here = (survey(source, str(tmp_path)) for source in ("memory://survey/two", str(pictures("two"))))
    assert (there.classes, there.class_counts, there.keys) == (here.classes, here.class_counts, here.keys)


def test_grey_images_and_files_that_are_none(pictures: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "grey" / "kind"
    folder.mkdir(parents=True)
    for index in range(9):
        Image.linear_gradient("L").rotate(index).resize((20 + index, 40)).save(folder / f"{index}.png")
    (folder / "notes.txt").write_text("no image")
    found = survey(str(folder.parent), str(tmp_path / "work"))
    assert (found.colour, found.listed, found.unusable.total(), found.sides) == (0.0, 9, 1, tuple(range(20, 29)))
    assert describe(found).endswith("grey, 1 file cannot be used")
    for path in folder.glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no image can be read"):
        survey(str(folder.parent), str(tmp_path / "work"))
    with pytest.raises(DataError, match="does not exist"):
        survey(str(tmp_path / "nowhere"), str(tmp_path / "work"))


def test_a_source_that_takes_long_to_list_is_estimated(
    pictures: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.proposal import survey as module

    monkeypatch.setattr(module, "LISTED", 100)
    found = survey(str(pictures("three")), str(tmp_path))
    assert (found.listed, found.complete, found.keys) == (100, False, ())
    assert sum(found.counts(0.2).splits.values()) == 100
    assert describe(found).startswith("100 or more images")
