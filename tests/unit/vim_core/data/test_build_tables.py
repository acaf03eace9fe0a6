"""Tables of a folder: labels and splits as `ingest` makes them, bad files named, codes those of the tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.tiny import pixels, tokenizer_network
from vim_core.data.build_tables import write_code_table, write_image_tables
from vim_core.data.code_tables import CodeTable
from vim_core.data.folders import split_by_hash
from vim_core.data.image_tables import ImageTable
from vim_core.data.images import encode_png
from vim_core.errors import DataError
from vim_core.pretrained import Tokenizer


def folder(root: Path, classes: list[str], count: int = 12) -> Path:
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(pixels(count, 10)):
            (root / name / f"{index}.png").write_bytes(encode_png(image[:, :8]))
    return root


@pytest.mark.parametrize("classes", [["b", "a"], [""]])
def test_every_image_has_its_class_and_the_split_of_its_path(tmp_path: Path, classes: list[str]) -> None:
    source = folder(tmp_path / "in", classes)
    (source / classes[0] / "bad.png").write_bytes(b"no image")
    tables = write_image_tables(source, tmp_path / "out", test_fraction=0.4)
    assert tables.classes == (["a", "b"] if len(classes) == 2 else [])
    ((path, reason),) = tables.skipped
    assert path.endswith("bad.png")
    assert "not an image" in reason
    rows = {split: list(ImageTable(files)) for split, files in (("train", tables.train), ("test", tables.test))}
    assert sum(map(len, rows.values())) == 12 * len(classes)
    for split, images in rows.items():
        for row in images:
            assert split_by_hash(row.key, 0.4) == split
            assert row.image == (source / row.key).read_bytes()
            assert row.label == (["a", "b"].index(row.key.split("/")[0]) if len(classes) == 2 else -1)
            assert (row.height, row.width) == (10, 8)


def test_a_split_without_images_is_refused_with_what_was_skipped(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", ["a"], count=1)
    (source / "a" / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"no image for the .* split, of 2 files .* 1 skipped; a/bad.png: not an image"):
        write_image_tables(source, tmp_path / "out")
    folder(source, ["a"])
    (source / "lost").mkdir()
    (source / "lost" / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"no image for class 'lost', of 14 files .* 2 skipped"):
        write_image_tables(source, tmp_path / "out", test_fraction=0.4)


def test_folders_named_as_splits_decide_the_split(tmp_path: Path) -> None:
    folder(tmp_path / "in" / "Train", ["a", "b"], 3)
    folder(tmp_path / "in" / "valid", ["a", "b"], 2)
    tables = write_image_tables(tmp_path / "in", tmp_path / "out")
    assert tables.classes == ["a", "b"]
    for split, files, count in (("Train", tables.train, 3), ("valid", tables.test, 2)):
        table = ImageTable(files)
        assert {key.split("/")[0] for key in table.keys} == {split}
        assert table.labels.tolist() == [0] * count + [1] * count


def test_codes_are_those_of_the_tokenizer_with_its_digest(tmp_path: Path) -> None:
    tables = write_image_tables(folder(tmp_path / "in", ["a", "b"], 24), tmp_path / "out", test_fraction=0.4)
    tokenizer = Tokenizer(tokenizer_network(), lineage={"digest": "d" * 64})
    table = CodeTable([write_code_table(tokenizer, tables.train, tmp_path / "codes.parquet")], str(tmp_path / "cache"))
    images = ImageTable(tables.train)
    (tmp_path / "x").mkdir()
    for row, key in enumerate(images.keys):
        (tmp_path / "x" / str(row)).write_bytes(images.image(row))
        expected = tokenizer.encode(tokenizer.read(tmp_path / "x" / str(row)))
        at = list(table.keys).index(key)
        assert torch.equal(torch.from_numpy(table.codes[at].astype(np.int64))[None], expected)
        assert table.labels[at] == images.labels[row]
    table.check("d" * 64, tokenizer.grid, tokenizer.vocabulary)
    with pytest.raises(DataError, match=r"image 'a/.*more than the 10 pixels"):
        write_code_table(tokenizer, tables.train, tmp_path / "again.parquet", max_pixels=10)
