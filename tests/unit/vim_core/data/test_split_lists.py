"""Lists of images: which file a line names, and that a wrong list is refused by name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vim_core.data.split_lists import SplitList, assign_splits, read_list
from vim_core.errors import DataError
from vim_core.storage import io

NAMES = st.text(alphabet="abc019_-", min_size=1, max_size=6)


def lists(train: list[str], test: list[str]) -> list[SplitList]:
    return [
        SplitList("ingest.train_list", "train", tuple(train), ""),
        SplitList("ingest.test_list", "test", tuple(test), ""),
    ]


@pytest.mark.parametrize(
    ("line", "paths", "named"),
    [
        ("00001.png", ["00001.png", "00002.png"], "00001.png"),
        ("00001", ["00001.png", "00002.png"], "00001.png"),
        ("imgHQ00001.npy", ["imgHQ00001.png", "imgHQ00002.png"], "imgHQ00001.png"),
        ("00001.png", ["00000/00001.png", "00000/00002.png"], "00000/00001.png"),
        ("00001", ["00000/00001.jpg"], "00000/00001.jpg"),
        ("a/1.png", ["a/1.png", "b/1.png"], "a/1.png"),
        ("a/1", ["a/1.jpg", "b/1.jpg"], "a/1.jpg"),
        ("1.png", ["1.png", "1.jpg", "deep/1.png"], "1.png"),
        ("1.png", ["1.jpg", "deep/1.png"], "1.jpg"),
        ("v1.5", ["v1.png", "v1.5.png"], "v1.5.png"),
        ("b/1.png", ["a/1.png"], None),
        ("../a/1.png", ["a/1.png"], None),
        ("1", ["11.png"], None),
    ],
)
def test_which_file_a_line_names(line: str, paths: list[str], named: str | None) -> None:
    found = assign_splits(paths, lists([line], []))
    assert found.splits == ({named: "train"} if named else {})
    assert found.missing == ([] if named else [(line, "listed in ingest.train_list but not below the source")])


@given(st.lists(NAMES, unique=True), st.integers(0, 20), st.sampled_from([".png", ".jpg", ""]))
def test_every_file_is_on_the_side_whose_list_names_it(names: list[str], cut: int, suffix: str) -> None:
    paths = [f"{name}{suffix}" for name in names]
    found = assign_splits([*paths, "extra/one.more.png"], lists(names[:cut], names[cut:]))
    assert found.splits == {path: "train" if i < cut else "test" for i, path in enumerate(paths)}
    assert not found.missing


@pytest.mark.parametrize(
    ("paths", "train", "test", "message"),
    [
        (["1.png", "1.jpg"], ["1"], [], r"ingest\.train_list: '1' names 2 files \(1\.jpg, 1\.png\)"),
        (
            ["a/1.png", "b/1.png", "c/1.png", "d/1.png"],
            [],
            ["1.png"],
            r"ingest\.test_list: '1\.png' names 4 files \(a/1\.png, b/1\.png, c/1\.png, …\)",
        ),
        (["1.png"], ["1.png"], ["1"], r"test_list \(1\) and ingest\.train_list \(1\.png\) both name 1\.png"),
        (["1.png"], ["1.png", "1.png"], [], "name every image once"),
    ],
)
def test_a_line_of_two_meanings_is_refused(paths: list[str], train: list[str], test: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        assign_splits(paths, lists(train, test))


def test_reading_a_list(tmp_path: Path) -> None:
    data = "\ufeffa.png\r\n  ./b c.png \n\n\nд/1.png".encode()
    (tmp_path / "list.txt").write_bytes(data)
    found = read_list(str(tmp_path / "list.txt"), "ingest.test_list", "test")
    assert found.lines == ("a.png", "b c.png", "д/1.png")
    assert (found.split, found.digest) == ("test", hashlib.sha256(data).hexdigest())


def test_a_list_may_lie_on_a_remote_store(remote: str) -> None:
    io.write_bytes(f"{remote}/train.txt", b"1.png\n2.png\n")
    assert read_list(f"{remote}/train.txt", "ingest.train_list", "train").lines == ("1.png", "2.png")
    with pytest.raises(DataError, match=rf"ingest\.train_list={remote}/none\.txt: cannot be read"):
        read_list(f"{remote}/none.txt", "ingest.train_list", "train")


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "names no image"), (b" \n\r\n", "names no image"), (b"\xff\xfe1", "is not UTF-8 text")]
)
def test_a_useless_list_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "list.txt").write_bytes(data)
    with pytest.raises(DataError, match=rf"ingest\.train_list=.*list\.txt: {message}"):
        read_list(str(tmp_path / "list.txt"), "ingest.train_list", "train")
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\); give the path"):
        read_list(str(tmp_path), "ingest.train_list", "train")
