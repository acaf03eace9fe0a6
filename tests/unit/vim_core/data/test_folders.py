"""Image folders: what is listed, where it belongs, and that nothing outside is read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.common import PRIVATE
from vim_core.data.folders import (
    SplitList,
    assign_splits,
    list_files,
    list_folder,
    listing_digest,
    read_file,
    read_list,
    split_by_hash,
    walk,
)  # fmt: skip
from vim_core.errors import DataError, StorageError
from vim_core.storage import io

NAMES = st.text(alphabet="abc019_-", min_size=1, max_size=6)


def tree(root: Path, *paths: str) -> Path:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode())
    return root


def test_listing_is_sorted_and_passes_over_dot_names(tmp_path: Path) -> None:
    tree(tmp_path, "b/2.png", "a/x/1.png", "a/.hidden", ".git/config", "readme.txt")
    entries = list(list_files(str(tmp_path), "hash"))
    assert [(e.path, e.size) for e in entries] == [("a/x/1.png", 9), ("b/2.png", 7), ("readme.txt", 10)]


@pytest.mark.parametrize("made", [True, False])
def test_a_missing_or_empty_source_says_what_is_expected(tmp_path: Path, made: bool) -> None:
    source = tmp_path / "photos"
    if made:
        (source / "cats").mkdir(parents=True)
    reason = "has no files in it" if made else "does not exist"
    with pytest.raises(DataError, match=rf"ingest\.source=.*photos: {reason}; expected builtin:digits or .*<class>"):
        list(list_files(str(source), "hash"))
    with pytest.raises(DataError, match="train/<class>"):
        list(list_files(str(source), "folders"))


def test_the_state_changes_with_names_sizes_and_times(tmp_path: Path) -> None:
    source = str(tree(tmp_path, "a/1.png", "b/2.png"))
    seen = [listing_digest(list_files(source, "hash"))]
    assert listing_digest(list_files(source, "hash")) == seen[0]
    os.utime(tmp_path / "a/1.png", ns=(1, 1))
    seen.append(listing_digest(list_files(source, "hash")))
    (tmp_path / "a/1.png").write_bytes(b"longer than before")
    os.utime(tmp_path / "a/1.png", ns=(1, 1))
    seen.append(listing_digest(list_files(source, "hash")))
    (tmp_path / "a/1.png").rename(tmp_path / "a/3.png")
    seen.append(listing_digest(list_files(source, "hash")))
    assert len(set(seen)) == 4


def test_links_are_followed_only_inside(tmp_path: Path) -> None:
    outside = tree(tmp_path / "outside", "secret.png", "more/1.png")
    source = tree(tmp_path / "source", "a/1.png")
    (source / "a/inside.png").symlink_to(source / "a/1.png")
    (source / "a/out.png").symlink_to(outside / "secret.png")
    (source / "a/gone.png").symlink_to(outside / "nothing.png")
    (source / "a/circle.png").symlink_to(source / "a/circle.png")
    (source / "linked").symlink_to(source / "a")
    (source / "a/up").symlink_to(source)
    listed = {
        "1.png": "",
        "inside.png": "",
        "out.png": "a link that leaves the source",
        "gone.png": "a link to nothing",
        "circle.png": "a link to nothing",
        "up": "a link to a folder that holds it",
    }
    expected = {f"{folder}/{name}": reason for folder in ("a", "linked") for name, reason in listed.items()}
    assert {entry.path: entry.reason for entry in list_files(str(source))} == expected
    anywhere = {entry.path: entry.reason for entry in list_files(str(source), links="anywhere")}
    assert anywhere == expected | {"a/out.png": "", "linked/out.png": ""}
    assert read_file(str(source), "a/out.png", "anywhere") == b"secret.png"


def test_a_link_that_may_hide_many_images_is_refused_by_name(tmp_path: Path) -> None:
    outside = tree(tmp_path / "outside", "more/1.png", "more/2.png")
    source = tree(tmp_path / "source", "a/1.png")
    (source / "val").symlink_to(outside / "more")
    with pytest.raises(DataError, match=r"source/val is a link to a folder outside, .*set ingest\.links=anywhere"):
        list(list_files(str(source)))
    assert [e.path for e in list_files(str(source), links="anywhere")] == ["a/1.png", "val/1.png", "val/2.png"]
    (source / "val").unlink()
    (source / "val").symlink_to(tmp_path / "not mounted")
    for links in ("inside", "anywhere"):
        with pytest.raises(DataError, match=r"source/val is a link to nothing, .*not mounted; mount or mend"):
            list(list_files(str(source), links=links))


def test_two_links_in_a_circle_end(tmp_path: Path) -> None:
    source = tree(tmp_path, "a/1.png", "b/2.png")
    (source / "a/x").symlink_to(source / "b")
    (source / "b/y").symlink_to(source / "a")
    assert [entry.path for entry in list_files(str(source)) if not entry.reason] == [
        "a/1.png", "a/x/2.png", "b/2.png", "b/y/1.png",
    ]  # fmt: skip


def test_a_snapshot_of_hugging_faces_cache_links_into_its_blobs(tmp_path: Path) -> None:
    repository = tree(tmp_path / "datasets--me--photos", "blobs/4fe2", "snapshots/81ab/readme")
    tree(tmp_path, "datasets--you--other/blobs/77ab")
    source = repository / "snapshots/81ab"
    (source / "mine.parquet").symlink_to("../../blobs/4fe2")
    (source / "theirs.parquet").symlink_to("../../../datasets--you--other/blobs/77ab")
    reasons = {entry.path: entry.reason for entry in list_files(str(source))}
    assert reasons == {"mine.parquet": "", "readme": "", "theirs.parquet": "a link that leaves the source"}
    assert read_file(str(source), "mine.parquet") == b"blobs/4fe2"


def test_system_files_are_left_out_and_counted(tmp_path: Path, remote: str) -> None:
    names = ("@eaDir/1.png/thumb.jpg", "__MACOSX/a/._1.png", "a/._1.png", "a/.DS_Store", "a/Thumbs.db", "a/DESKTOP.INI")
    tree(tmp_path, "a/1.png", *names)
    for name in ("a/1.png", *names):
        io.write_bytes(io.join(remote, name), b"x")
    for source in (str(tmp_path), remote):
        left_out = Counter[str]()
        assert [entry.path for entry in list_files(source, left_out=left_out)] == ["a/1.png"]
        kinds = {"@eaDir", "__MACOSX", "._*", ".*", "Thumbs.db", "desktop.ini"}
        assert left_out == dict.fromkeys(kinds, 1)


def test_what_would_block_or_fails_is_a_reason_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "a/1.png")
    os.mkfifo(tmp_path / "a/pipe.png")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        monkeypatch.chdir(tmp_path)
        listening.bind("a/socket.png")
        reasons = {entry.path: entry.reason for entry in list_files(str(tmp_path))}
        blocked = "a FIFO, socket or device, not a file"
        assert reasons == {"a/1.png": "", "a/pipe.png": blocked, "a/socket.png": blocked}
        for name in ("pipe", "socket"):
            with pytest.raises(DataError, match="cannot be read"):
                read_file(str(tmp_path), f"a/{name}.png")
    with pytest.raises(DataError, match=rf"ingest\.train_list=.*pipe\.png: cannot be read \({blocked}\)"):
        read_list(str(tmp_path / "a/pipe.png"), "ingest.train_list", "train")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENAMETOOLONG])
def test_every_error_of_a_file_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    source, reason = str(tree(tmp_path, "a/1.png")), os.strerror(number)

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, reason)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(DataError, match=f"cannot be read: {reason}"):
        read_file(source, "a/1.png")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", fail)
        assert [entry.reason for entry in list_files(source)] == [f"cannot be read: {reason}"]
    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(DataError, match=rf"cannot list .*\({reason}\)"):
        list(list_files(source))


def test_the_source_itself_may_be_a_link(tmp_path: Path) -> None:
    tree(tmp_path / "real", "a/1.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert [entry.path for entry in list_files(str(tmp_path / "link"), "hash")] == ["a/1.png"]
    assert read_file(str(tmp_path / "link"), "a/1.png") == b"a/1.png"


@pytest.mark.parametrize("path", ["../secret.png", "a/../../secret.png", "/etc/hostname", "a/out.png"])
def test_reading_never_leaves_the_source(tmp_path: Path, path: str) -> None:
    tree(tmp_path, "secret.png", "source/a/1.png")
    (tmp_path / "source/a/out.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="leaves the source"):
        read_file(str(tmp_path / "source"), path)


def test_a_file_that_vanished_is_a_data_error(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.png")
    with pytest.raises(DataError, match="cannot be read"):
        read_file(str(tmp_path), "a/2.png")


def test_names_that_are_not_utf8_are_listed_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/a/caf\xe9.png")).write_bytes(b"x")
    (entry,) = list_files(str(tmp_path), "hash")
    assert entry.path == r"a/caf\udce9.png"
    assert entry.reason == "the file name is not UTF-8"


def test_a_remote_source_is_listed_and_read(remote: str) -> None:
    for path, data in {"train/a/1.png": b"one", "train/a/.x": b"no", "val/a/2.png": b"three"}.items():
        io.write_bytes(io.join(remote, path), data)
    entries = list(list_files(remote, "folders"))
    assert [(e.path, e.size) for e in entries] == [("train/a/1.png", 3), ("val/a/2.png", 5)]
    assert read_file(remote, "val/a/2.png") == b"three"
    with pytest.raises(DataError, match="does not exist"):
        list(list_files(io.join(remote, "nothing"), "hash"))


def test_a_changed_object_changes_the_state(gcs: str) -> None:
    """Buckets number the generations of an object: the same size is not taken for the same content."""
    source = f"{gcs}/changing"
    io.write_bytes(io.join(source, "a/1.png"), b"one")
    before = listing_digest(list_files(source, "hash"))
    assert listing_digest(list_files(source, "hash")) == before
    io.write_bytes(io.join(source, "a/1.png"), b"two")
    assert listing_digest(list_files(source, "hash")) != before


def test_a_source_in_a_bucket_that_is_missing_or_closed(gcs: str) -> None:
    with pytest.raises(DataError, match=r"ingest\.source=gs://nowhere/a: does not exist"):
        list(list_files("gs://nowhere/a", "hash"))
    with pytest.raises(StorageError, match=rf"gs://{PRIVATE} refuses this account"):
        list(list_files(f"gs://{PRIVATE}/a", "hash"))


def test_the_order_is_that_of_whole_paths(tmp_path: Path, remote: str) -> None:
    """One level at a time gives what sorting all paths would; '-' and ' ' come before '/', '0' after it."""
    paths = ["a/1", "a-b/1", "a b", "a0", "a/b/c", "a/b-c", "b/a", "a.png", "a/b0/1"]
    tree(tmp_path, *paths)
    assert [entry.path for entry in list_files(str(tmp_path))] == sorted(paths)
    for path in paths:
        io.write_bytes(io.join(remote, path), b"x")
    assert [entry.path for entry in list_files(remote)] == sorted(paths)
    assert [entry.path for entry in walk(remote, "a/b")] == ["a/b/c"]
    assert [entry.path for entry in walk(str(tmp_path), "a/b0")] == ["a/b0/1"]
    assert [(name, entry is None) for name, entry in list_folder(str(tmp_path), "a")] == [
        ("1", False), ("b-c", False), ("b", True), ("b0", True),
    ]  # fmt: skip


def test_splits() -> None:
    keys = [f"a/{i}.png" for i in range(4000)]
    expected = [int(hashlib.sha256(k.encode()).hexdigest()[:12], 16) / 16**12 < 0.2 for k in keys]
    assert [split_by_hash(k, 0.2) == "test" for k in keys] == expected
    assert 700 < sum(expected) < 900


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
    splits, missing = assign_splits(paths, lists([line], []))
    assert splits == ({named: "train"} if named else {})
    assert missing == ([] if named else [(line, "listed in ingest.train_list but not below the source")])


@given(st.lists(NAMES, unique=True), st.integers(0, 20), st.sampled_from([".png", ".jpg", ""]))
def test_every_file_is_on_the_side_whose_list_names_it(names: list[str], cut: int, suffix: str) -> None:
    paths = [f"{name}{suffix}" for name in names]
    splits, missing = assign_splits([*paths, "extra/one.more.png"], lists(names[:cut], names[cut:]))
    assert splits == {path: "train" if i < cut else "test" for i, path in enumerate(paths)}
    assert not missing


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
