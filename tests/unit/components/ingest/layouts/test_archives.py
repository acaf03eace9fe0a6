"""Compressed parts: unpacked once, completely or not at all, within bounds; tars: walked as tarfile reads them."""

from __future__ import annotations

import gzip
import io as memory
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.ingest.layouts import archives, tfrecord
from components.ingest.layouts.archives import walk
from components.ingest.layouts.base import ScanContext, SourcePart
from components.ingest.source_images import UNPACKED, ImageReader, SourceImage
from tests.support.layouts import record, tar
from vim_core.config import IngestConfig
from vim_core.errors import DataError
from vim_core.storage import io


@contextmanager
def opened(
    root: Path, data: bytes, layout: str = "webdataset", compressed: Any = archives.is_gzip, **changes: Any
) -> Iterator[tuple[IO[bytes], SourceImage]]:
    """A part with these bytes, opened."""
    (root / "source").mkdir(exist_ok=True)
    (root / "source/part.gz").write_bytes(data)
    context = ScanContext(IngestConfig(source=str(root / "source"), **changes), str(root / "work"))
    part = SourcePart("part.gz", repr(data[:1000]), "train")
    with archives.open_plain(context, part, layout, compressed) as pair:
        yield pair


def unpacked(root: Path) -> list[Path]:
    return [path for path in (root / "work").rglob("*") if path.is_file()]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=3))
def test_streams_of_any_number_of_members_are_unpacked(tmp_path: Path, members: list[bytes]) -> None:
    with opened(tmp_path, b"".join(map(gzip.compress, members))) as (stream, template):
        assert stream.read() == b"".join(members)
    assert (template.layout, template.source, template.split) == (UNPACKED, "part.gz", "train")


def test_an_image_is_read_from_the_unpacked_file(tmp_path: Path) -> None:
    with opened(tmp_path, gzip.compress(b"before IMAGE after")) as (_, template):
        image = template._replace(offset=7, size=5)
    with ImageReader(IngestConfig(source=str(tmp_path / "source")), str(tmp_path / "work")) as reader:
        assert reader.read(image) == b"IMAGE"


def test_a_plain_part_is_read_in_place(tmp_path: Path) -> None:
    with opened(tmp_path, b"plain") as (stream, template):
        assert stream.read() == b"plain"
    assert (template.layout, template.file) == ("webdataset", "part.gz")
    assert unpacked(tmp_path) == []


STREAM = gzip.compress(bytes(range(256)) * 40)


@pytest.mark.parametrize(
    "data",
    [STREAM[:-9], STREAM[:-8] + bytes(8), STREAM[:60] + b"\xff" * 9 + STREAM[69:], STREAM + b"more"],
    ids=["cut off", "another checksum", "damaged", "garbage behind"],
)
def test_damage_is_refused_and_nothing_is_left(data: bytes, tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match=r"part\.gz: cannot be unpacked further \(.+\); download it again"),
        opened(tmp_path, data),
    ):
        pass
    assert unpacked(tmp_path) == []


def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(bytes(8 << 20), 9)
    largest = [0]
    remove = io.remove_tree

    def measure_and_remove(uri: str) -> None:
        largest[0] = Path(uri).stat().st_size
        remove(uri)

    monkeypatch.setattr(io, "remove_tree", measure_and_remove)
    with (
        pytest.raises(DataError, match=r"ingest\.max_expansion=100: part\.gz unpacks to more than 100 times its size"),
        opened(tmp_path, bomb),
    ):
        pass
    assert len(bomb) < 10_000
    assert 0 < largest[0] <= archives.FREE_BYTES + 100 * len(bomb) < 8 << 20
    assert unpacked(tmp_path) == []
    with opened(tmp_path, bomb, max_expansion=2000) as (stream, _):
        assert sum(len(block) for block in iter(lambda: stream.read(1 << 20), b"")) == 8 << 20


def test_a_record_whose_length_looks_like_gzip_is_a_record(tmp_path: Path) -> None:
    data = record(bytes(0x088B1F))
    assert archives.is_gzip(data)
    with opened(tmp_path, data, "tfrecord", tfrecord.is_compressed) as (stream, template):
        assert [len(found.data) for found in tfrecord.records("part", stream, 1 << 20)] == [0x088B1F]
    assert template.layout == "tfrecord"
    with opened(tmp_path, gzip.compress(data), "tfrecord", tfrecord.is_compressed) as (stream, _):
        assert stream.read() == data


NAMES = st.lists(st.text("abc/.é", min_size=1, max_size=120), max_size=6)


@settings(deadline=None)
@given(NAMES, st.data())
def test_a_tar_inside_a_tar_is_walked_as_if_unpacked(names: list[str], data: st.DataObject) -> None:
    files = [(f"f{index}{name}", data.draw(st.binary(max_size=1500))) for index, name in enumerate(names)]
    inner = memory.BytesIO()
    with tarfile.open(
        fileobj=inner, mode="w", format=data.draw(st.sampled_from([0, 1, 2])) or tarfile.GNU_FORMAT
    ) as made:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, memory.BytesIO(content))
    stream = memory.BytesIO(b"x" * 512 + inner.getvalue() + b"\7" * 700)
    found = list(walk("file", stream, 512, 512 + len(inner.getvalue())))
    whole = stream.getvalue()
    with tarfile.open(fileobj=memory.BytesIO(inner.getvalue())) as read:
        assert [member.name for member in found] == [info.name for info in read]
    assert [whole[m.offset : m.offset + m.size] for m in found] == [content for _, content in files]


def test_damaged_tars_are_refused_wherever_they_break(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", [(f"{index}.jpg", b"x" * 700) for index in range(4)])
    whole = path.read_bytes()
    for length in (100, 1536 + 200, 1536 + 512 + 100, 3 * 1536 + 512 + 10):
        with pytest.raises(DataError, match=r"a\.tar: .*; download it again"):
            list(walk("a.tar", memory.BytesIO(whole[:length])))
    flipped = bytearray(whole)
    flipped[2 * 1536 + 5] ^= 1
    with pytest.raises(DataError, match=r"a\.tar: is damaged at byte 3072"):
        list(walk("a.tar", memory.BytesIO(bytes(flipped))))


def test_names_that_are_not_utf8_can_be_written_down(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", [("caf\udce9.jpg", b"x")])
    with open(path, "rb") as stream:
        (member,) = walk("a.tar", stream)
    assert member.name == r"caf\udce9.jpg"


def test_links_in_a_tar_are_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as made:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo(f"m{kind.decode()}")
            info.type, info.linkname = kind, "/etc/hostname"
            made.addfile(info)
    with open(tmp_path / "a.tar", "rb") as stream:
        reasons = [member.reason for member in walk("a.tar", stream)]
    assert reasons == ["a link or a device, not a file of its own"] * 2
