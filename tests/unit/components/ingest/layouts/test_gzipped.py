"""Compressed parts: unpacked once, whole or not at all, within bounds."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.ingest.layouts import gzipped, tfrecord
from components.ingest.layouts.base import Container, Job
from components.ingest.locator import UNPACKED, Located, Reader
from tests.support.layouts import record
from vim_core.config import IngestConfig
from vim_core.errors import DataError
from vim_core.storage import io


def job(root: Path, **changes: Any) -> Job:
    return Job(IngestConfig(source=str(root / "source"), **changes), str(root / "work"))


def part(root: Path, data: bytes, state: str = "state") -> Container:
    (root / "source").mkdir(exist_ok=True)
    (root / "source/part.gz").write_bytes(data)
    return Container("part.gz", state, "train")


def unpacked(root: Path) -> list[Path]:
    return [path for path in (root / "work").rglob("*") if path.is_file()]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=3))
def test_streams_of_any_number_of_members_are_unpacked(tmp_path: Path, members: list[bytes]) -> None:
    container = part(tmp_path, b"".join(gzip.compress(member) for member in members), repr(members))
    with gzipped.opened(job(tmp_path), container, "webdataset") as (stream, blank):
        assert stream.read() == b"".join(members)
    assert (blank.layout, blank.source, blank.split) == (UNPACKED, "part.gz", "train")


def test_an_image_is_read_from_where_it_was_unpacked_to(tmp_path: Path) -> None:
    made = job(tmp_path)
    with gzipped.opened(made, part(tmp_path, gzip.compress(b"before IMAGE after")), "webdataset") as (_, blank):
        image: Located = blank._replace(offset=7, size=5)
    with Reader(made.config, made.work) as reader:
        assert reader.read(image) == b"IMAGE"


def test_a_plain_part_is_read_where_it_lies(tmp_path: Path) -> None:
    with gzipped.opened(job(tmp_path), part(tmp_path, b"plain"), "webdataset") as (stream, blank):
        assert stream.read() == b"plain"
    assert (blank.layout, blank.file) == ("webdataset", "part.gz")
    assert unpacked(tmp_path) == []


WHOLE = gzip.compress(bytes(range(256)) * 40)


@pytest.mark.parametrize(
    "data",
    [WHOLE[:-9], WHOLE[:-8] + bytes(8), WHOLE[:60] + b"\xff" * 9 + WHOLE[69:], WHOLE + b"more"],
    ids=["cut off", "another checksum", "damaged", "garbage behind"],
)
def test_damage_is_refused_and_nothing_is_left(data: bytes, tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match=r"part\.gz: cannot be unpacked further \(.+\); fetch it again"),
        gzipped.opened(job(tmp_path), part(tmp_path, data), "webdataset"),
    ):
        pass
    assert unpacked(tmp_path) == []


def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(bytes(24 << 20), 9)
    largest = [0]
    remove = io.remove_tree

    def removed(uri: str) -> None:
        largest[0] = Path(uri).stat().st_size
        remove(uri)

    monkeypatch.setattr(io, "remove_tree", removed)
    with (
        pytest.raises(DataError, match=r"ingest\.max_expansion=100: part\.gz unpacks to more than 100 times its size"),
        gzipped.opened(job(tmp_path), part(tmp_path, bomb), "webdataset"),
    ):
        pass
    assert len(bomb) < 30_000
    assert 0 < largest[0] <= gzipped.SLACK + 100 * len(bomb) < 24 << 20
    assert unpacked(tmp_path) == []
    with gzipped.opened(job(tmp_path, max_expansion=2000), part(tmp_path, bomb), "webdataset") as (stream, _):
        assert sum(len(block) for block in iter(lambda: stream.read(1 << 20), b"")) == 24 << 20


def test_a_record_whose_length_looks_like_gzip_is_a_record(tmp_path: Path) -> None:
    data = record(bytes(0x088B1F))
    assert gzipped.compressed(data)
    with gzipped.opened(job(tmp_path), part(tmp_path, data), "tfrecord", tfrecord._packed) as (stream, blank):
        assert [len(each.data) for each in tfrecord.records("part", stream, 1 << 20)] == [0x088B1F]
    assert blank.layout == "tfrecord"
    with gzipped.opened(job(tmp_path), part(tmp_path, gzip.compress(data)), "tfrecord", tfrecord._packed) as (
        stream,
        _,
    ):
        assert stream.read() == data
