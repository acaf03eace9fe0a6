"""The stages of tokenizing by themselves: batches of one shape, pieces in any order, one definition for all engines."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.tokenize import jobs, stages
from components.tokenize.stages import Assembly, Piece, Plan, Shard
from tests.support import tiny
from vim_core.config import AugmentConfig
from vim_core.data.code_tables import CodeMeta, CodeTable
from vim_core.data.image_tables import ImageRow, write_images
from vim_core.data.images import encode_png
from vim_core.errors import DataError
from vim_core.models.vit_vqgan import Tokenizer
from vim_core.storage import io

META = CodeMeta("train", (2, 2), 16, "t" * 64, views=3)
PLAN = Plan("w", "c", "cpu", 1, 8, 5, {"train": META}, 0, AugmentConfig(flip=0.5, min_scale=0.5), 10_000)


def shard(root: Path, count: int) -> Shard:
    """Random images of different sizes."""
    rng = np.random.default_rng(count)
    rows = []
    for index in range(count):
        height, width = rng.integers(8, 20, 2)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        rows.append(ImageRow(f"{index:03d}", index % 3, encode_png(pixels), height, width, "test"))
    write_images(str(root / "images"), rows)
    return Shard("codes/train-0", "train", str(root / "images"), str(root / "result"))


@pytest.mark.parametrize(("count", "sizes"), [(0, [0]), (5, [5, 5, 5]), (7, [5, 5, 5, 5, 1])])
def test_every_batch_but_the_last_is_full(tmp_path: Path, count: int, sizes: list[int]) -> None:
    batches = list(stages.decoded(PLAN, shard(tmp_path, count)))
    assert [len(batch) for batch in batches] == sizes
    assert [batch.index for batch in batches] == list(range(len(sizes)))
    assert {batch.batches for batch in batches} == {len(sizes)}
    assert all(batch.pixels.shape == (len(batch), 8, 8, 3) for batch in batches)


def test_a_shard_is_the_encoding_of_its_views(tmp_path: Path) -> None:
    given, tokenizer = shard(tmp_path, 7), Tokenizer(tiny.tokenizer_network())
    assert stages.tokenized(PLAN, given, tokenizer) == "codes/train-0"
    table = CodeTable([given.result])
    assert table.meta == META
    assert table.keys == [f"{index:03d}" for index in range(7) for _ in range(3)]
    pixels = np.concatenate([batch.pixels for batch in stages.decoded(PLAN, given)])
    (at_once,) = stages.decoded(dataclasses.replace(PLAN, encode_batch=21), given)
    whole = stages.encoded(PLAN, at_once, tokenizer)
    assert np.array_equal(table.codes, whole.codes)
    assert len({pixels[row].tobytes() for row in range(3)}) > 1, "views differ"


def test_a_finished_shard_is_left_alone(tmp_path: Path) -> None:
    given = shard(tmp_path, 7)
    Path(given.result).write_bytes(b"whole")
    stages.tokenized(PLAN, given, None)  # type: ignore[arg-type]
    assert Path(given.result).read_bytes() == b"whole"


def test_a_bad_image_is_named_with_its_key(tmp_path: Path) -> None:
    write_images(str(tmp_path / "images"), [ImageRow("odd", 0, b"GIF", 1, 1, "test")])
    with pytest.raises(DataError, match="images: image 'odd': not an image"):
        list(stages.decoded(PLAN, Shard("codes/x", "train", str(tmp_path / "images"), "")))


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 9), seed=st.integers(0, 1000), repeated=st.booleans())
def test_pieces_may_come_in_any_order_and_twice(
    tmp_path_factory: pytest.TempPathFactory, count: int, seed: int, repeated: bool
) -> None:
    root = tmp_path_factory.mktemp("pieces")
    codes = np.random.default_rng(seed).integers(0, 16, (count, 1, 4)).astype(np.uint16)
    files = []
    for name in ("ordered", "mixed"):
        target = Shard(name, "train", "", str(root / name))
        pieces = [Piece(target, i, count, [f"k{i}"], [i], [0], codes[i]) for i in range(count)]
        if name == "mixed":
            pieces += pieces[:-1] if repeated else []
            random.Random(seed).shuffle(pieces)
        assembly = Assembly(pieces[0])
        whole = [assembly.add(piece) for piece in pieces]
        assert whole.index(True) >= count - 1
        assembly.write(PLAN)
        files.append(Path(root, name).read_bytes())
    assert files[0] == files[1]


def test_what_is_finished_is_read_from_one_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [Shard(f"codes/train-{n}", "train", "", str(tmp_path / "codes" / f"train-{n}")) for n in range(4)]
    done = jobs.Finished(shards)
    assert done() == set()
    (tmp_path / "codes").mkdir()
    for name in ("train-2", ".train-3.partial", "other"):
        (tmp_path / "codes" / name).write_text("")
    asked: list[str] = []
    own = io.listing

    def listing(uri: str) -> list[str]:
        asked.append(uri)
        return own(uri)

    monkeypatch.setattr(io, "listing", listing)
    assert done() == {shards[2].result}
    assert asked == [str(tmp_path / "codes")]
    assert jobs.Finished([])() == set()
