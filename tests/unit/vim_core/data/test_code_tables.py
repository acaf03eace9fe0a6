"""Code tables: round trip, refusals, and the decoded copy that is checked, built once a host, mapped, never half."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import threading
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vim_core.data import code_files, code_tables
from vim_core.data.code_files import METADATA, CodeFile, CodeMeta, code_schema, write_codes
from vim_core.data.code_tables import CodeTable
from vim_core.errors import DataError, LineageError, StorageError

META = CodeMeta("train", (2, 3), 512, "a" * 64, views=2, augmentation=[{}, {"flip": 0.5}])


def shard(uri: Path, keys: list[str], seed: int = 0) -> CodeFile:
    """A shard of random codes and what a manifest would say of it."""
    names = [key for key in keys for _ in range(2)]
    codes = np.random.default_rng(seed).integers(0, 512, (len(names), 6))
    rows = write_codes(str(uri), names, np.arange(len(names)), np.tile([0, 1], len(keys)), codes, META)
    data = uri.read_bytes()
    return CodeFile(str(uri), len(data), hashlib.sha256(data).hexdigest(), rows, "a" * 64)


@pytest.fixture
def files(tmp_path: Path) -> list[CodeFile]:
    return [shard(tmp_path / "0", ["b", "ä", "dog"]), shard(tmp_path / "1", ["c", "a"], 1)]


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every file that is decoded."""
    seen: list[str] = []
    own = code_files.read_rows

    def counted(file: CodeFile, *rest: Any) -> Any:
        seen.append(file.uri)
        return own(file, *rest)

    monkeypatch.setattr(code_tables, "read_rows", counted)
    return seen


def raw(table: pa.Table, path: Path) -> str:
    pq.write_table(table, path)
    return str(path)


def test_rows_by_position_are_those_of_the_files(files: list[CodeFile], cache: str) -> None:
    table = CodeTable(files, cache)
    expected = pa.concat_tables([pq.read_table(file.uri) for file in files])
    assert table.keys == expected["key"].to_pylist() == list(table.keys)
    assert table.keys[2:5] == expected["key"].to_pylist()[2:5]
    assert table.keys[-1] == "c"
    with pytest.raises(IndexError):
        table.keys[10]
    codes = np.array(expected["codes"].to_pylist())
    for rows in ([7, 0, 3, 3], slice(2, 5), table.view == 1):
        assert table.codes[rows].tolist() == codes[rows].tolist()
    assert table.labels.tolist() == expected["label"].to_pylist()
    assert not table.codes.flags.writeable


def test_it_is_mapped_and_not_read(files: list[CodeFile], cache: str) -> None:
    table = CodeTable(files, cache)
    path = next(Path(cache).glob("*/codes"))
    with open(path, "r+b") as stream:
        stream.write(np.full(6, 7, "<u2").tobytes())
    assert table.codes[0].tolist() == [7] * 6
    table.labels[0] = 99  # a private page: the file keeps its own
    assert CodeTable(files, cache).labels[0] == 0


def test_it_is_decoded_once_whoever_opens_it(files: list[CodeFile], cache: str, builds: list[str]) -> None:
    tables: list[CodeTable] = []
    threads = [threading.Thread(target=lambda: tables.append(CodeTable(files, cache))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tables.append(pickle.loads(pickle.dumps(tables[0])))  # noqa: S301
    assert builds == [file.uri for file in files]
    assert all(np.array_equal(table.codes, tables[0].codes) for table in tables)
    assert len(pickle.dumps(tables[0])) < 1000


def test_the_manifest_names_the_copy_wherever_the_files_lie(
    files: list[CodeFile], tmp_path: Path, cache: str, builds: list[str]
) -> None:
    CodeTable(files, cache)
    moved = [dataclasses.replace(file, uri=f"{file.uri}-moved") for file in files]
    for file, other in zip(files, moved, strict=True):
        shutil.copy(file.uri, other.uri)
    CodeTable(moved, cache)
    assert len(builds) == 2
    CodeTable(files[::-1], cache)
    assert len(builds) == 4


def test_without_a_manifest_a_changed_file_is_read_again(files: list[CodeFile], cache: str) -> None:
    uri = files[0].uri
    before = CodeTable([uri], cache).codes.tolist()
    shard(Path(uri), ["x", "y", "z"], seed=5)
    assert CodeTable([uri], cache).codes.tolist() != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bytes": 5}, r"\d+ bytes, manifest says 5; run tokenize again"),
        ({"sha256": "0" * 64}, r"sha256 [0-9a-f]{12}…, manifest says 000000000000…: changed since"),
        ({"rows": 7}, "6 rows, manifest says 7"),
        ({"uri": "/nowhere"}, "no such file"),
    ],
)
def test_what_is_not_in_the_manifest_is_refused(
    files: list[CodeFile], cache: str, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        CodeTable([dataclasses.replace(files[0], **change)], cache)
    assert not list(Path(cache).glob(f"*/{code_tables.INDEX}"))


def test_another_tokenizer_is_refused_at_every_opening(files: list[CodeFile], cache: str) -> None:
    CodeTable(files, cache)
    with pytest.raises(LineageError, match="codes of tokenizer aaaaaaaaaaaa, expected bbbbbbbbbbbb"):
        CodeTable([files[0], dataclasses.replace(files[1], tokenizer="b" * 64)], cache)


def altered(file: CodeFile, path: Path, **columns: Any) -> str:
    """The file with other values in some columns."""
    table = pq.read_table(file.uri).to_pydict() | columns
    return raw(pa.Table.from_pydict(table, schema=code_schema(META)), path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"codes": [[512] * 6] * 4}, "codes 512 to 512, outside 0 to 511"),
        ({"view": [0, 2, 0, 1]}, "views 0 to 2, outside 0 to 1"),
        ({"label": [0, -2, 0, 1]}, "labels -2 to 1, outside -1"),
        ({"key": ["a", "c", "b", "b"]}, "not in the order"),
        ({"view": [0, 0, 0, 1]}, "not in the order"),
    ],
)
def test_values_outside_their_range_are_refused(
    files: list[CodeFile], tmp_path: Path, cache: str, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        CodeTable([altered(files[1], tmp_path / "altered", **columns)], cache)


def test_order_is_checked_across_row_groups(files: list[CodeFile], tmp_path: Path, cache: str) -> None:
    table = pq.read_table(files[1].uri)
    pq.write_table(pa.concat_tables([table[2:], table[:2]]), tmp_path / "turned", row_group_size=2)
    with pytest.raises(DataError, match="not in the order"):
        CodeTable([str(tmp_path / "turned")], cache)


def test_a_damaged_page_is_named(files: list[CodeFile], cache: str) -> None:
    data = bytearray(Path(files[0].uri).read_bytes())
    data[60:200] = bytes(140)
    Path(files[0].uri).write_bytes(data)
    with pytest.raises(DataError, match=r"/0: (row group 0 cannot be read|rows are not in|not a whole)"):
        CodeTable([files[0].uri], cache)


@pytest.mark.parametrize("name", ["codes", code_tables.INDEX])
def test_a_copy_that_was_cut_is_built_anew(files: list[CodeFile], cache: str, builds: list[str], name: str) -> None:
    before = CodeTable(files, cache).codes.copy()
    path = next(Path(cache).glob(f"*/{name}"))
    path.write_bytes(path.read_bytes()[:-3])
    assert np.array_equal(CodeTable(files, cache).codes, before)
    assert len(builds) == 4


def test_what_a_killed_process_left_is_not_taken(
    files: list[CodeFile], cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            CodeTable(files, cache)
    assert [path.suffix for path in Path(cache).iterdir() if path.is_dir()] == [".partial"]
    assert len(CodeTable(files, cache)) == 10
    assert [path.suffix for path in Path(cache).iterdir() if path.is_dir()] == [""]


def test_copies_that_nobody_opens_any_more_are_removed(files: list[CodeFile], cache: str) -> None:
    old, kept = CodeTable(files[:1], cache), CodeTable(files[1:], cache)
    past = 1_000_000_000
    for index in Path(cache).glob(f"*/{code_tables.INDEX}"):
        os.utime(index, (past, past))
    CodeTable(files[1:], cache)
    CodeTable(files, cache)
    assert len(list(Path(cache).glob(f"*/{code_tables.INDEX}"))) == 2
    assert len(old.codes) == 6, "who has it mapped keeps it"
    assert len(kept.codes) == 4


def test_a_full_or_forbidden_folder_is_named_with_its_setting(
    files: list[CodeFile], tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot be written .*run\.code_cache"):
        CodeTable(files, str(tmp_path / "file" / "below"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(StorageError, match=r"0 MB free.*run\.code_cache"):
        CodeTable(files, cache)


def test_a_remote_table_is_downloaded_once(
    files: list[CodeFile], cache: str, builds: list[str], tmp_path: Path
) -> None:
    fs = fsspec.filesystem("memory")
    remote = [dataclasses.replace(file, uri=f"memory://bucket/{tmp_path.name}/{n}") for n, file in enumerate(files)]
    for file, other in zip(files, remote, strict=True):
        fs.pipe_file(other.uri.removeprefix("memory:/"), Path(file.uri).read_bytes())
    far = CodeTable(remote, cache)
    fs.rm(f"/bucket/{tmp_path.name}", recursive=True)
    again, near = CodeTable(remote, cache), CodeTable(files, str(tmp_path / "other"))
    for table in (far, again):
        assert np.array_equal(table.codes, near.codes)
        assert table.keys == near.keys
    assert len(builds) == 4
    with pytest.raises(DataError, match=r"memory://bucket/.*no such file"):
        CodeTable(remote[:1], cache)


def anonymous_kb() -> int:
    """Memory of this process that is not mapped from a file."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))


def test_memory_does_not_grow_with_the_table(tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_files, "ROW_GROUP", 512)
    paths = []
    for rows in (2048, 16_384):
        codes = np.random.default_rng(0).integers(0, 8192, (rows, 512), dtype=np.int32)
        zeros, keys = np.zeros(rows, np.int32), [f"image-{row:08d}" for row in range(rows)]
        paths.append(str(tmp_path / str(rows)))
        write_codes(paths[-1], keys, zeros, zeros, codes, CodeMeta("train", (16, 32), 8192, "t"))
    CodeTable(paths[:1], cache)
    before = anonymous_kb()
    table = CodeTable(paths[1:], cache)
    assert int(table.codes[::8].sum()) > 0
    assert table.codes.nbytes == 16 << 20
    assert anonymous_kb() - before < 8 << 10


def write(uri: Path, meta: CodeMeta = META, keys: tuple[str, ...] = ("b", "a"), top: int = 500) -> str:
    names = [key for key in keys for _ in range(meta.views)]
    codes = np.random.default_rng(0).integers(0, top, (len(names), meta.tokens))
    write_codes(str(uri), names, np.arange(len(names)), np.tile(np.arange(meta.views), len(keys)), codes, meta)
    return str(uri)


def test_round_trip_sorted_by_key_and_view(tmp_path: Path) -> None:
    codes = np.arange(24).reshape(4, 6)
    uri = str(tmp_path / "c.parquet")
    assert write_codes(uri, ["b", "a", "b", "a"], np.array([5, 3, 5, 3]), np.array([1, 1, 0, 0]), codes, META) == 4
    table = CodeTable([uri])
    assert table.codes.dtype == np.uint16
    assert table.codes.tolist() == codes[[3, 1, 2, 0]].tolist()
    assert table.keys == ["a", "a", "b", "b"]
    assert table.view.tolist() == [0, 1, 0, 1]
    assert table.labels.tolist() == [3, 3, 5, 5]
    assert table.labels.dtype == np.int64
    assert (len(table), table.meta) == (4, META)


def test_codes_are_a_fixed_size_list_of_the_narrowest_width(tmp_path: Path) -> None:
    assert pq.read_schema(write(tmp_path / "a")).field("codes").type == pa.list_(pa.uint16(), 6)
    edge = dataclasses.replace(META, vocabulary=65_536)
    assert CodeTable([write(tmp_path / "b", edge, top=65_536)]).codes.dtype == np.uint16
    wide = dataclasses.replace(META, vocabulary=65_537)
    uri = str(tmp_path / "c")
    write_codes(uri, ["a"], np.array([0]), np.array([0]), np.full((1, 6), 65_536), wide)
    assert CodeTable([uri]).codes.tolist() == [[65_536] * 6]
    assert CodeTable([uri]).codes.dtype == np.uint32


def test_equal_codes_give_equal_bytes(tmp_path: Path) -> None:
    assert Path(write(tmp_path / "a")).read_bytes() == Path(write(tmp_path / "b")).read_bytes()


def test_empty_files_among_others(tmp_path: Path) -> None:
    empty = write(tmp_path / "e", keys=())
    assert CodeTable([empty]).codes.shape == (0, 6)
    assert len(CodeTable([empty, write(tmp_path / "a")])) == 4


@pytest.mark.parametrize(
    ("codes", "views", "message"),
    [
        (np.zeros((2, 5), int), [0, 1], "shape"),
        (np.full((2, 6), 512), [0, 1], "outside a vocabulary of 512"),
        (np.full((2, 6), -1), [0, 1], "outside a vocabulary of 512"),
        (np.zeros((2, 6), int), [1, 1], "occurs twice"),
    ],
)
def test_wrong_codes_are_not_written(tmp_path: Path, codes: Any, views: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_codes(str(tmp_path / "c"), ["a", "a"], np.zeros(2), np.array(views), codes, META)
    assert list(tmp_path.iterdir()) == []


def test_check_names_what_differs(tmp_path: Path) -> None:
    table = CodeTable([write(tmp_path / "a")])
    table.check("a" * 64, (2, 3), 512)
    with pytest.raises(DataError, match="vocabulary 512, expected 256"):
        table.check("a" * 64, vocabulary=256)


def test_files_of_two_tokenizers_or_splits_are_not_one_table(tmp_path: Path) -> None:
    first = write(tmp_path / "a")
    with pytest.raises(LineageError, match="cccccccccccc"):
        CodeTable([first, write(tmp_path / "b", dataclasses.replace(META, tokenizer="c" * 64))])
    with pytest.raises(DataError, match="two tables"):
        CodeTable([first, write(tmp_path / "c", dataclasses.replace(META, split="test"))])


def test_files_that_are_no_code_tables_are_refused(tmp_path: Path) -> None:
    uri = tmp_path / "a"
    with pytest.raises(DataError, match="without files"):
        CodeTable([])
    pq.write_table(pa.table({"codes": [1]}), uri)
    with pytest.raises(DataError, match="not a code table"):
        CodeTable([str(uri)])


def test_another_schema_version_and_a_lying_header_are_refused(tmp_path: Path) -> None:
    table = pq.read_table(write(tmp_path / "a"))
    record = json.loads(table.schema.metadata[METADATA])
    for change, message in (({"schema_version": 2}, "schema version 2"), ({"grid": [4, 4]}, "do not fit")):
        metadata = {METADATA: json.dumps({**record, **change}).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "b")
        with pytest.raises(DataError, match=message):
            CodeTable([str(tmp_path / "b")])
