"""Image tables: round trip, determinism, row groups, refusals, digests."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vim_core.data.image_tables import ImageRow, ImageTable, image_digest, shard_of, write_images, write_sorted
from vim_core.errors import DataError


def rows(count: int, start: int = 0) -> list[ImageRow]:
    return [ImageRow(f"k{i:05d}", i % 7, b"image %d" % i, 8, 9 + i % 2, f"s/{i}") for i in range(start, start + count)]


def test_round_trip_in_key_order_over_files_and_row_groups(tmp_path: Path) -> None:
    first, second = str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")
    assert write_images(first, reversed(rows(600))) == 600
    write_images(second, rows(10, start=600))
    table = ImageTable([first, second])
    assert len(table) == 610
    assert table.row_groups == [256, 256, 88, 10]
    assert list(table) == rows(610)
    assert table.keys[605] == "k00605"
    assert table.labels.tolist() == [i % 7 for i in range(610)]
    assert table.labels.dtype == "int64"
    assert table.images(595, 605) == [b"image %d" % i for i in range(595, 605)]


def test_images_at_random_places_with_a_small_cache_and_in_other_processes(tmp_path: Path) -> None:
    uri = str(tmp_path / "a.parquet")
    write_images(uri, rows(1000))
    table = ImageTable([uri], cached_groups=1)
    assert [table.image(i) for i in (999, 0, 600, 1, 998)] == [b"image %d" % i for i in (999, 0, 600, 1, 998)]
    assert len(table._cache) == 1
    assert pickle.loads(pickle.dumps(table)).image(3) == b"image 3"  # noqa: S301
    for outside in (1000, -1):
        with pytest.raises(IndexError, match="1000 rows"):
            table.image(outside)


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    write_images(str(tmp_path / "a.parquet"), rows(300))
    write_images(str(tmp_path / "b.parquet"), rows(300)[::-1])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_an_empty_table(tmp_path: Path) -> None:
    uri = str(tmp_path / "a.parquet")
    assert write_images(uri, []) == 0
    table = ImageTable([uri])
    assert len(table) == 0
    assert table.row_groups == []
    assert table.labels.tolist() == []


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    uri = str(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="unique and sorted"):
        write_images(uri, [*rows(3), rows(1)[0]])
    with pytest.raises(DataError, match="unique and sorted"):
        write_sorted(uri, iter(rows(300)[::-1]))
    assert list(tmp_path.iterdir()) == []


def test_missing_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        ImageTable([str(tmp_path / "none.parquet")])
    uri = tmp_path / "a.parquet"
    write_images(str(uri), rows(300))
    uri.write_bytes(uri.read_bytes()[:-100])
    with pytest.raises(DataError, match="not a whole Parquet file"):
        ImageTable([str(uri)])
    pq.write_table(pa.table({"key": ["a"], "label": [1]}), uri)
    with pytest.raises(DataError, match="not those of an image table"):
        ImageTable([str(uri)])


def test_the_digest_is_of_the_content_not_of_the_layout(tmp_path: Path) -> None:
    one, two, three = (str(tmp_path / f"{name}.parquet") for name in "abc")
    write_images(one, rows(20))
    write_images(two, rows(7))
    write_images(three, rows(13, start=7))
    digest = image_digest({"train": ImageTable([one])})
    assert digest == image_digest({"train": ImageTable([three, two])})
    assert digest != image_digest({"test": ImageTable([one])})
    assert digest != image_digest({"train": ImageTable([two])})
    changed = [*rows(19), ImageRow("k00019", 19 % 7, b"other", 8, 9, "s/19")]
    write_images(two, changed)
    assert digest != image_digest({"train": ImageTable([two])})


def test_the_digest_by_an_independent_computation(tmp_path: Path) -> None:
    uri = str(tmp_path / "a.parquet")
    write_images(uri, rows(2))
    lines = [f"x\t'k0000{i}'\t{i}\t{hashlib.sha256(b'image %d' % i).hexdigest()}\n" for i in range(2)]
    assert image_digest({"x": ImageTable([uri])}) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_shards_are_about_equal() -> None:
    counts = [0] * 8
    for index in range(8000):
        counts[shard_of(f"class/{index}.jpg", 8)] += 1
    assert min(counts) > 850
    assert max(counts) < 1150
