"""The stages of tokenizing by themselves: batches of one shape, in any order, one definition for all engines."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.tokenize import stages
from components.tokenize.beam_engine import Write
from components.tokenize.plan import TokenizePlan, TokenizeShard, finished_files
from components.tokenize.stages import Batch, decode_shard
from tests.support import tiny
from vim_core.config import AugmentConfig
from vim_core.data.code_files import CodeMeta
from vim_core.data.code_tables import CodeTable
from vim_core.data.image_tables import ImageRow, write_images
from vim_core.data.images import encode_png
from vim_core.errors import DataError
from vim_core.models.vit_vqgan import Tokenizer
from vim_core.storage import io

META = CodeMeta("train", (2, 2), 16, "t" * 64, views=3)
PLAN = TokenizePlan("w", "c", "cpu", 1, 8, 5, {"train": META}, 0, AugmentConfig(flip=0.5, min_scale=0.5), 10_000)


def make_shard(root: Path, count: int) -> TokenizeShard:
    """Random images of different sizes."""
    rng = np.random.default_rng(count)
    rows = []
    for index in range(count):
        height, width = rng.integers(8, 20, 2)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        rows.append(ImageRow(f"{index:03d}", index % 3, encode_png(pixels), height, width, "test"))
    write_images(str(root / "images"), rows)
    return TokenizeShard("codes/train-0", "train", str(root / "images"), str(root / "result"))


@pytest.mark.parametrize(("count", "sizes"), [(0, [0]), (5, [5, 5, 5]), (7, [5, 5, 5, 5, 1])])
def test_every_batch_but_the_last_is_full(tmp_path: Path, count: int, sizes: list[int]) -> None:
    batches = list(decode_shard(PLAN, make_shard(tmp_path, count)))
    assert [len(batch) for batch in batches] == sizes
    assert [batch.index for batch in batches] == list(range(len(sizes)))
    assert {batch.batches for batch in batches} == {len(sizes)}
    assert all(batch.values.shape == (len(batch), 8, 8, 3) for batch in batches)


def test_a_shard_is_the_encoding_of_its_views(tmp_path: Path) -> None:
    shard, tokenizer = make_shard(tmp_path, 7), Tokenizer(tiny.tokenizer_network())
    assert stages.tokenize_shard(PLAN, shard, tokenizer) == "codes/train-0"
    table = CodeTable([shard.result])
    assert table.meta == META
    assert table.keys == [f"{index:03d}" for index in range(7) for _ in range(3)]
    (batch,) = decode_shard(dataclasses.replace(PLAN, encode_batch=21), shard)
    assert np.array_equal(table.codes, stages.encode_batch(batch, tokenizer).values)
    assert len({batch.values[row].tobytes() for row in range(3)}) > 1, "views differ"


def test_a_finished_shard_is_kept(tmp_path: Path) -> None:
    shard = make_shard(tmp_path, 7)
    Path(shard.result).write_bytes(b"finished")
    stages.tokenize_shard(PLAN, shard, None)  # type: ignore[arg-type]
    assert Path(shard.result).read_bytes() == b"finished"


def test_a_bad_image_is_named_with_its_key(tmp_path: Path) -> None:
    write_images(str(tmp_path / "images"), [ImageRow("odd", 0, b"GIF", 1, 1, "test")])
    with pytest.raises(DataError, match="images: image 'odd': not an image"):
        list(decode_shard(PLAN, TokenizeShard("codes/x", "train", str(tmp_path / "images"), "")))


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 9), seed=st.integers(0, 1000), repeated=st.booleans())
def test_batches_may_come_in_any_order_and_twice(
    tmp_path_factory: pytest.TempPathFactory, count: int, seed: int, repeated: bool
) -> None:
    root = tmp_path_factory.mktemp("batches")
    codes = np.random.default_rng(seed).integers(0, 16, (count, 1, 4)).astype(np.uint16)
    files = []
    for name in ("ordered", "mixed"):
        shard = TokenizeShard(name, "train", "", str(root / name))
        batches = [Batch(shard, i, count, [f"k{i}"], [i], [0], codes[i]) for i in range(count)]
        if name == "mixed":
            batches += batches[:-1] if repeated else []
            random.Random(seed).shuffle(batches)
        write = Write(PLAN)
        write.start_bundle()
        assert [written for batch in batches for written in write.process(batch)] == [name]
        files.append(Path(root, name).read_bytes())
    assert files[0] == files[1]


def test_finished_files_are_read_from_one_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [TokenizeShard(f"codes/{n}", "train", "", str(tmp_path / "codes" / f"train-{n}")) for n in range(4)]
    assert finished_files(shards) == finished_files([]) == set()
    (tmp_path / "codes").mkdir()
    for name in ("train-2", ".train-3.partial", "other"):
        (tmp_path / "codes" / name).write_text("")
    listed: list[str] = []
    listing = io.list_names

    def record(uri: str) -> list[str]:
        listed.append(uri)
        return listing(uri)

    monkeypatch.setattr(io, "list_names", record)
    assert finished_files(shards) == {shards[2].result}
    assert listed == [str(tmp_path / "codes")]
