"""Code tables: round trip, widths, metadata, and refusals of what does not belong together."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vim_core.data.code_files import METADATA, CodeMeta, write_codes
from vim_core.data.code_tables import CodeTable
from vim_core.errors import DataError, LineageError

META = CodeMeta("train", (2, 3), 512, "a" * 64, views=2, augmentation=[{}, {"flip": 0.5}])


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
    assert (table.views, len(table), table.meta) == (2, 4, META)


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
    with pytest.raises(LineageError, match="codes of tokenizer aaaaaaaaaaaa, expected bbbbbbbbbbbb"):
        table.check("b" * 64)
    with pytest.raises(DataError, match=r"grid \(2, 3\), expected \(3, 2\)"):
        table.check("a" * 64, grid=(3, 2))
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
    with pytest.raises(DataError, match="no such file"):
        CodeTable([str(uri)])
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
