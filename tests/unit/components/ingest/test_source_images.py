"""Keys, detection of the layout, reading bytes: without Beam."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.ingest.detect_layout import detect_layout
from components.ingest.shards import unique_keys
from components.ingest.source_images import ImageReader, SourceImage, ilsvrc_stem, placement_key
from tests.support.layouts import tar
from vim_core.config import IngestConfig
from vim_core.data.folders import side_in_path
from vim_core.errors import DataError


def image(key: str = "k", **fields: Any) -> SourceImage:
    plain = SourceImage(key, "content", "train", "", 0, "source", "folders", "file")
    return plain._replace(**fields)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("n01440764_10026.JPEG", "n01440764_10026"),
        ("data/n01440764/n01440764_10026_n01440764.JPEG", "n01440764_10026"),
        ("ILSVRC2012_val_00000293.JPEG", "ILSVRC2012_val_00000293"),
        ("ILSVRC2012_val_00000293_n01440764.JPEG", "ILSVRC2012_val_00000293"),
        ("n01440764_10026", "n01440764_10026"),
        ("n01440764_tench.JPEG", ""),
        ("xn01440764_10026.JPEG", ""),
        ("val_17.JPEG", ""),
        ("", ""),
    ],
)
def test_ilsvrc_stems(name: str, stem: str) -> None:
    assert ilsvrc_stem(name) == stem


def test_split_and_shard_do_not_see_the_occurrence() -> None:
    assert placement_key("0123456789abcdef-12") == "0123456789abcdef"
    for key in ("0123456789abcdef", "digit-0042", "n01440764_10026", "a/0123456789abcdef-1", "0123456789ABCDEF-1"):
        assert placement_key(key) == key


@given(
    st.permutations([(key, label, f"s{i}") for i, (key, label) in enumerate([("aa", 1)] * 12 + [("ab", 0), ("aa", 0)])])
)
def test_equal_images_are_counted_by_class_in_any_order(order: list[tuple[str, int, str]]) -> None:
    """Their order does not depend on the layout; keys come out sorted as text."""
    found = unique_keys(image(key * 8, label=label, source=source) for key, label, source in order)
    assert [image.key for image in found] == [*sorted(f"{'aa' * 8}-{n}" for n in range(13)), f"{'ab' * 8}-0"]
    assert {each.key: each.label for each in found}[f"{'aa' * 8}-0"] == 0


def test_a_repeated_key_is_a_reason() -> None:
    pair = [image(rule="ilsvrc", source=source) for source in ("b", "a")]
    assert [(each.source, each.reason) for each in unique_keys(pair)] == [("a", ""), ("b", "its key is taken by a")]


@pytest.mark.parametrize(
    ("path", "side"),
    [
        ("ILSVRC2012_img_train.tar", "train"),
        ("ILSVRC2012_img_val.tar", "val"),
        ("validation-00000-of-00128", "val"),
        ("data/test-00000-of-00028.parquet", "test"),
        ("train/imagenet-000000.tar", "train"),
        ("train/val-000000.tar", "val"),
        ("images/retrained-0.tar", ""),
    ],
)
def test_the_side_is_a_word_in_the_path(path: str, side: str) -> None:
    assert side_in_path(path) == side


def test_bytes_are_bounded_and_cut_files_noticed(tmp_path: Path) -> None:
    (tmp_path / "all").write_bytes(b"0123456789")
    config = IngestConfig(source=str(tmp_path), max_bytes=5)
    with ImageReader(config, str(tmp_path)) as reader:
        assert reader.read(image(file="all", offset=2, size=4)) == b"2345"
        with pytest.raises(DataError, match=r"6 bytes are more than the 5 of ingest\.max_bytes"):
            reader.read(image(file="all", offset=0, size=6))
        with pytest.raises(DataError, match="2 of 4 bytes are there: all is cut off"):
            reader.read(image(file="all", offset=8, size=4))
        with pytest.raises(DataError, match="cannot be read"):
            reader.read(image(file="gone", offset=8, size=4))


@pytest.mark.parametrize("path", ["../secret", "a/../../secret", "/etc/hostname", "a/out", "linked/secret", "a/gone"])
def test_reading_never_leaves_the_source(tmp_path: Path, path: str) -> None:
    (tmp_path / "source/a").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "source/a/1").write_bytes(b"one")
    (tmp_path / "source/a/in").symlink_to(tmp_path / "source/a/1")
    (tmp_path / "source/a/out").symlink_to(tmp_path / "secret")
    (tmp_path / "source/linked").symlink_to(tmp_path)
    with ImageReader(IngestConfig(source=str(tmp_path / "source")), str(tmp_path)) as reader:
        assert [reader.read(image(file=f"a/{name}")) for name in ("1", "in")] == [b"one", b"one"]
        with pytest.raises(DataError, match=r"leaves the source|cannot be read"):
            reader.read(image(file=path))


def test_unknown_sources_and_mixtures_are_refused(tmp_path: Path) -> None:
    tar(tmp_path / "train-0.tar", [("a.jpg", b"x")])
    (tmp_path / "train-00000-of-00001").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds tar and tfrecord files; set ingest\.layout to one kind"):
        detect_layout(IngestConfig(source=str(tmp_path)))
    assert detect_layout(IngestConfig(source=str(tmp_path), layout="webdataset")) == "webdataset"
    assert detect_layout(IngestConfig()) == "digits"
    assert detect_layout(IngestConfig(source=str(tmp_path / "none"))) == "folders"


def test_class_archives_without_the_outer_one_are_ilsvrc_too(tmp_path: Path) -> None:
    tar(tmp_path / "n01440764.tar", [("n01440764_1.JPEG", b"x")])
    assert detect_layout(IngestConfig(source=str(tmp_path))) == "ilsvrc"
