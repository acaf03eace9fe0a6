"""One law for local folders, memory and buckets: what is written is read, whole or not at all, by one writer."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tests.support.common import PRIVATE
from tests.support.tiny import pixels
from vim_core.data.image_tables import ImageRow, ImageTable, write_images
from vim_core.data.images import encode_png
from vim_core.errors import StorageError
from vim_core.storage import io

LARGE = bytes(range(256)) * (24 << 10)
"""Six MiB: gcsfs sends more than five in several requests."""


@pytest.mark.parametrize("data", [b"", LARGE], ids=["empty", "large"])
@pytest.mark.parametrize("way", ["write_bytes", "open_write", "staged", "create_exclusive"])
def test_every_way_to_write_is_read_in_every_way(anywhere: str, way: str, data: bytes) -> None:
    uri = io.join(anywhere, "deep", "er", "a file")
    if way == "write_bytes":
        io.write_bytes(uri, b"old and longer than the small one")
        io.write_bytes(uri, data)
    elif way == "create_exclusive":
        assert io.create_exclusive(uri, data)
    elif way == "staged":
        with io.staged(uri) as path:
            Path(path).write_bytes(data)
    else:
        with io.open_write(uri) as stream:
            stream.write(data[:7])
            stream.write(memoryview(data)[7:])
    assert io.exists(uri)
    assert io.read_bytes(uri) == data
    with io.open_read(uri) as stream:
        assert stream.read() == data
    with io.local_copy(uri) as path:
        assert Path(path).read_bytes() == data
    assert io.list_names(io.join(anywhere, "deep")) == ["er"]
    assert {name: info["size"] for name, info in io.find_files(anywhere).items()} == {"deep/er/a file": len(data)}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 100), st.integers(0, 100))
def test_a_range_is_a_slice(gcs: str, first: int, second: int) -> None:
    uri, data = f"{gcs}/ranges", bytes(range(100))
    io.write_bytes(uri, data)
    start, stop = sorted((first, second))
    assert io.read_range(uri, start, stop) == data[start:stop]


READERS: dict[str, Callable[[str], Any]] = {
    "bytes": io.read_bytes,
    "range": lambda uri: io.read_range(uri, 0, 4),
    "stream": io.open_read,
    "fetched": lambda uri: io.local_copy(uri).__enter__(),
}


def test_what_is_not_there(anywhere: str) -> None:
    uri = io.join(anywhere, "none")
    assert not io.exists(uri)
    assert io.list_names(uri) == []
    assert io.find_files(uri) == {}
    io.remove_tree(uri)
    for reader in READERS.values():
        with pytest.raises(FileNotFoundError):
            reader(uri)


def test_a_reader_that_is_dropped_leaves_no_task_behind(gcs: str) -> None:
    io.write_bytes(f"{gcs}/dropped", LARGE)
    stream = io.open_read(f"{gcs}/dropped")
    assert stream.read(1 << 20) == LARGE[: 1 << 20]
    assert getattr(stream.cache, "_prefetcher", None) is None  # type: ignore[attr-defined]


def test_folders_and_files_are_removed(anywhere: str) -> None:
    for name in ("a/b/1", "a/2", "c"):
        io.write_bytes(io.join(anywhere, name), b"x")
    assert io.list_names(anywhere) == ["a", "c"]
    io.remove_tree(io.join(anywhere, "a", "2"))
    assert io.list_names(io.join(anywhere, "a")) == ["b"]
    io.remove_tree(io.join(anywhere, "a"))
    assert io.list_names(anywhere) == ["c"]
    assert not io.exists(io.join(anywhere, "a"))


def test_of_many_writers_at_once_one_creates(anywhere: str) -> None:
    uri = io.join(anywhere, "manifest.json")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda each: io.create_exclusive(uri, b"%d" % each), range(8)))
    assert won.count(True) == 1
    assert io.read_bytes(uri) == b"%d" % won.index(True)
    assert not io.create_exclusive(uri, b"late")
    assert io.find_files(anywhere).keys() == {"manifest.json"}


def refusing(number: int) -> Callable[..., Any]:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_without_hard_links_one_of_many_writers_creates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "link", refusing(number))
    test_of_many_writers_at_once_one_creates(str(tmp_path / "exfat"))
    monkeypatch.setattr(ctypes, "CDLL", lambda *arguments, **named: object())  # no exclusive rename either
    with pytest.raises(
        StorageError, match=r"neither hard links nor exclusive renames.*choose another one by run\.root"
    ):
        io.create_exclusive(str(tmp_path / "fuse" / "manifest.json"), b"{}")
    assert list((tmp_path / "fuse").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOLCK, r"has no locks .*run\.tracking_uri and DAGSTER_HOME"),
        (errno.ENOSPC, "the disk is full"),
        (errno.EACCES, r"cannot be written \(Permission denied\).*run\.root"),
    ],
)
def test_what_cannot_be_locked_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(number))
    with pytest.raises(StorageError, match=rf"^{tmp_path}: .*{words}"), io.locked(tmp_path / "lock"):
        pass
    monkeypatch.undo()
    with pytest.raises(OSError, match="the body's"), io.locked(tmp_path / "lock"):
        raise OSError("the body's")


def test_another_ones_writing_is_seen_at_once(anywhere: str) -> None:
    """A listing that this process made before must not answer for the store."""
    uri = io.join(anywhere, "folder", "a")
    io.write_bytes(uri, b"first")
    io.list_names(io.join(anywhere, "folder"))
    # What another process has: nothing is shared but the store.
    other, path = fsspec.core.url_to_fs(uri, skip_instance_cache=True)
    other.pipe_file(path, b"second and longer")
    other.pipe_file(f"{path[:-1]}b", b"new")
    assert io.exists(io.join(anywhere, "folder", "b"))
    with io.open_read(uri) as stream:
        assert stream.read() == b"second and longer"


def failing(place: AbstractContextManager[Any], write: Callable[[Any], Any]) -> None:
    """Write there and then fail."""
    with place as opened:
        write(opened)
        raise ZeroDivisionError


@pytest.mark.parametrize("size", [3, len(LARGE)], ids=["small", "large"])
def test_a_stream_that_fails_publishes_nothing_in_a_bucket(gcs: str, size: int) -> None:
    uri = f"{gcs}/half-{size}"
    with pytest.raises(ZeroDivisionError):
        failing(io.open_write(uri), lambda stream: stream.write(LARGE[:size]))
    assert not io.exists(uri)
    with io.open_write(uri) as stream:
        stream.write(b"again")
    assert io.read_bytes(uri) == b"again"


def test_a_staged_file_that_fails_is_not_there(anywhere: str) -> None:
    uri = io.join(anywhere, "table")
    io.write_bytes(uri, b"old")
    with pytest.raises(ZeroDivisionError):
        failing(io.staged(uri), lambda path: Path(path).write_bytes(b"new"))
    assert io.read_bytes(uri) == b"old"
    assert io.find_files(anywhere).keys() == {"table"}


class Rows:
    """Sizes of images, read by whichever process asks."""

    def __init__(self, uri: str) -> None:
        self.table = ImageTable([uri])

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> bytes:
        return self.table.image(row)


def test_processes_forked_from_a_reader_read(gcs: str) -> None:
    """gcsfs keeps a thread and connections, none of which lives on in a fork."""
    uri = f"{gcs}/forked/train.parquet"
    images = [encode_png(picture) for picture in pixels(6, 8)]
    write_images(uri, [ImageRow(f"{i}", 0, image, 8, 8, "test") for i, image in enumerate(images)])
    rows: Any = Rows(uri)
    assert rows[0] == images[0]
    loaded = DataLoader(rows, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    assert list(loaded) == images


WRITERS: dict[str, Callable[[str], Any]] = {
    "bytes": lambda uri: io.write_bytes(uri, b"x"),
    "exclusive": lambda uri: io.create_exclusive(uri, b"x"),
    "stream": lambda uri: written(uri, 1),
    "long stream": lambda uri: written(uri, len(LARGE)),
    "staged": lambda uri: staged(uri),
}


def written(uri: str, size: int) -> None:
    with io.open_write(uri) as stream:
        stream.write(LARGE[:size])


def staged(uri: str) -> None:
    with io.staged(uri) as path:
        Path(path).write_bytes(b"x")


@pytest.mark.parametrize("name", WRITERS)
def test_a_bucket_that_is_not_there_is_named(gcs: str, name: str) -> None:
    with pytest.raises(StorageError) as caught:
        WRITERS[name]("gs://nowhere/deep/file")
    assert str(caught.value) == (
        "gs://nowhere/deep/file: there is no bucket gs://nowhere, or it is hidden from this account; make it "
        "(`gcloud storage buckets create gs://nowhere`) or correct the address"
    )


@pytest.mark.parametrize("name", [*READERS, *WRITERS, "exists", "listing", "files", "remove"])
def test_missing_credentials_are_named_with_the_remedy(gcs: str, name: str) -> None:
    others = {"exists": io.exists, "listing": io.list_names, "files": io.find_files, "remove": io.remove_tree}
    with pytest.raises(StorageError) as caught:
        (READERS | WRITERS | others)[name](f"gs://{PRIVATE}/deep/file")
    text = str(caught.value)
    assert text.startswith(f"gs://{PRIVATE}/deep/file: gs://{PRIVATE} refuses this account (Anonymous caller")
    assert "gcloud auth application-default login" in text
    assert "\n" not in text


def test_a_store_that_does_not_answer_is_named(gcs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import gcsfs.core

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    monkeypatch.setattr(gcsfs.core.asyncio, "sleep", _at_once(gcsfs.core.asyncio.sleep))
    fsspec.get_filesystem_class("gs").clear_instance_cache()
    try:
        with pytest.raises(
            StorageError, match=r"^gs://a/b: no answer from STORAGE_EMULATOR_HOST=http://127\.0\.0\.1:9 "
        ):
            io.read_bytes("gs://a/b")
    finally:
        fsspec.get_filesystem_class("gs").clear_instance_cache()


def _at_once(sleep: Callable[..., Any]) -> Callable[..., Any]:
    return lambda seconds, *rest: sleep(0, *rest)


def test_addresses_that_nothing_can_open_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match=r"^nosuch://a: Protocol not known: nosuch"):
        io.read_bytes("nosuch://a")

    def missing(uri: str) -> Any:
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(StorageError, match=r"^gs://a/b: cannot be opened here \(Please .*\); install the extra `gcp`"):
        io.read_bytes("gs://a/b")


@pytest.mark.parametrize("part", ["../b", "a/../../b", "/etc", "gs://other/b"])
def test_names_stay_inside_their_folder(part: str) -> None:
    with pytest.raises(ValueError, match="would leave gs://a/b"):
        io.join("gs://a/b", part)


def test_local_addresses(tmp_path: Path) -> None:
    assert io.is_local(str(tmp_path))
    assert io.is_local(f"file://{tmp_path}")
    assert not io.is_local("gs://a")
    assert io.local_path(f"file://{tmp_path}") == tmp_path
    with pytest.raises(ValueError, match="gs://a is not a local path"):
        io.local_path("gs://a")
    io.make_folder(str(tmp_path / "a" / "b"))
    io.make_folder("gs://nowhere/at/all")
    assert os.listdir(tmp_path) == ["a"]


def test_when_a_file_was_written_is_known_everywhere(anywhere: str) -> None:
    uri = io.join(anywhere, "a", "b")
    before = time.time()
    io.write_bytes(uri, b"x")
    # Disks keep times in ticks of a few milliseconds.
    assert before - 2 < io.mtime(uri) < time.time() + 2
    assert io.mtime_of(io.find_files(anywhere)["a/b"]) == io.mtime(uri)
    assert io.mtime(io.join(anywhere, "none")) == 0.0


def test_times_are_read_in_every_form_a_store_gives_them() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    for info in ({"mtime": moment.timestamp()}, {"created": moment}, {"updated": "2026-01-02T03:04:05Z"}):
        assert io.mtime_of(info) == moment.timestamp()
    assert io.mtime_of({"size": 1}) >= moment.timestamp()
