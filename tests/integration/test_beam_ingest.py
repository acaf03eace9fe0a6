"""`ingest` through Beam: every file is accounted for, runs are repeatable, finished shards are kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.ingest import component as ingest
from tests.support.ingested import contents, dead_letters, image_table_of
from tests.support.synthetic import context_of
from vim_core.config import IngestConfig
from vim_core.data.image_tables import ImageTable, image_digest, shard_of
from vim_core.data.images import encode_png
from vim_core.errors import DataError

CLASSES = ("ant", "bee", "cat")


def photos(folder: Path, each: int = 12, prefix: str = "") -> Path:
    """A folder of PNG images of noise, 20x24, some of them a level deeper."""
    rng = np.random.default_rng(0)
    for name in CLASSES:
        for number in range(each):
            path = folder / prefix / name / ("deep" if number % 2 else "") / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)))
    return folder


def settings(source: Path, **changes: Any) -> IngestConfig:
    return IngestConfig(**{"source": str(source), "test_fraction": 0.3, "shards": 3, "keys": "path", **changes})


def test_good_images_are_taken_byte_for_byte_into_the_shard_of_their_key(tmp_path: Path) -> None:
    source, ctx = photos(tmp_path / "photos"), context_of(tmp_path, "ingest")
    outcome = ingest.run(settings(source, shards=5), {}, ctx)
    split = {name: image_table_of(ctx, name) for name in ("train", "test")}
    rows = [row for table in split.values() for row in table]
    assert sorted(row.key for row in rows) == sorted(str(p.relative_to(source)) for p in source.rglob("*.png"))
    for row in rows:
        assert row.image == (source / row.key).read_bytes()
        assert (row.height, row.width, row.source) == (20, 24, row.key)
        assert CLASSES[row.label] == row.key.split("/")[0]
    assert outcome.digest == image_digest(split)
    assert outcome.metrics == {"train": len(split["train"]), "test": len(split["test"]), "dead_letter": 0}
    known = outcome.properties
    assert (known["read"], known["written"], known["dead_letter"]) == (36, 36, 0)
    assert known["classes"] == list(CLASSES)
    assert known["image_size"] == [20, 24]
    assert sum(outcome.rows.values()) == 36
    names = sorted(path.name for path in Path(ctx.out, "images").iterdir())
    assert names == sorted(f"{s}-{i:05d}-of-00005.parquet" for s in ("train", "test") for i in range(5))
    for name in names:
        keys = ImageTable([ctx.path(f"images/{name}")]).keys
        assert keys == sorted(keys)
        assert {shard_of(key, 5) for key in keys} <= {int(name.split("-")[1])}


def test_bad_files_go_to_the_dead_letters_with_their_reasons(tmp_path: Path) -> None:
    source, ctx = photos(tmp_path / "photos"), context_of(tmp_path, "ingest")
    (source / "ant/notes.txt").write_text("not an image")
    Image.fromarray(np.zeros((300, 300, 3), np.uint8)).save(source / "bee/cut.jpg")
    (source / "bee/cut.jpg").write_bytes((source / "bee/cut.jpg").read_bytes()[:700])
    (source / "cat/big.png").write_bytes(encode_png(np.zeros((90, 90, 3), np.uint8)))
    (source / "cat/empty.png").write_bytes(b"")
    (source / "stray.png").write_bytes((source / "ant/00.png").read_bytes())
    (source / "cat/link.png").symlink_to(tmp_path)
    outcome = ingest.run(settings(source, max_bad_share=0.2, max_pixels=8000 * 15), {}, ctx)
    letters = dead_letters(ctx)
    assert letters["ant/notes.txt"].startswith("not an image: 12 bytes")
    assert letters["bee/cut.jpg"].startswith("damaged image of 700 bytes")
    assert letters["cat/empty.png"].startswith("not an image: 0 bytes")
    assert letters["stray.png"] == "not inside a class folder"
    assert letters["cat/link.png"].startswith("a link to a folder")
    assert len(letters) == 5
    assert outcome.properties["read"] == 36 + 6 == outcome.properties["written"] + len(letters)
    again = context_of(tmp_path / "again", "ingest")
    ingest.run(settings(source, max_bad_share=0.2, max_pixels=8000), {}, again)
    assert dead_letters(again)["cat/big.png"].startswith("90x90 is more than the 8000 pixels")


def test_above_the_share_the_run_fails_with_the_first_reasons(tmp_path: Path) -> None:
    source, ctx = photos(tmp_path / "photos"), context_of(tmp_path, "ingest")
    (source / "ant/notes.txt").write_text("not an image")
    ingest.run(settings(source, max_bad_share=1 / 37), {}, ctx)
    with pytest.raises(DataError, match=r"max_bad_share=0.02: 1 of 37 .* first: ant/notes.txt: not an image") as error:
        ingest.run(settings(source, max_bad_share=0.02), {}, context_of(tmp_path / "strict", "ingest"))
    assert "\n" not in str(error.value)


def test_classes_may_be_given_with_their_order(tmp_path: Path) -> None:
    source, ctx = photos(tmp_path / "photos"), context_of(tmp_path, "ingest")
    outcome = ingest.run(settings(source, classes=["cat", "ant"], max_bad_share=0.4), {}, ctx)
    assert outcome.properties["classes"] == ["cat", "ant"]
    assert {(r.label, r.key.split("/")[0]) for r in image_table_of(ctx, "train")} == {(0, "cat"), (1, "ant")}
    assert set(dead_letters(ctx).values()) == {"class 'bee' is not among ingest.classes"}
    assert len(dead_letters(ctx)) == 12


def test_split_folders_and_a_class_that_train_lacks(tmp_path: Path) -> None:
    source = photos(photos(tmp_path / "photos", prefix="train"), each=3, prefix="val")
    (source / "val/dog").mkdir()
    (source / "val/dog/1.png").write_bytes((source / "val/ant/00.png").read_bytes())
    ctx = context_of(tmp_path, "ingest")
    outcome = ingest.run(settings(source, split="folders", max_bad_share=0.1), {}, ctx)
    assert outcome.properties["splits"] == {"train": 36, "test": 9}
    assert dead_letters(ctx) == {"val/dog/1.png": "class 'dog' is not among the classes of train/"}
    assert all(key.startswith("val/") for key in image_table_of(ctx, "test").keys)


def test_resize_makes_square_png_images(tmp_path: Path) -> None:
    source, ctx = photos(tmp_path / "photos"), context_of(tmp_path, "ingest")
    outcome = ingest.run(settings(source, resize=8), {}, ctx)
    row = image_table_of(ctx, "train").row(0)
    assert (row.height, row.width) == (8, 8)
    assert row.image.startswith(b"\x89PNG")
    assert outcome.properties["image_size"] == [8, 8]


def test_a_limit_keeps_the_mix_of_classes_and_splits(tmp_path: Path) -> None:
    ctx = context_of(tmp_path, "ingest")
    outcome = ingest.run(IngestConfig(limit=300, test_fraction=0.3, shards=2), {}, ctx)
    labels = np.concatenate([image_table_of(ctx, split).labels for split in ("train", "test")])
    assert len(labels) == outcome.properties["read"] == 300
    assert np.bincount(labels, minlength=10).min() >= 15
    assert 60 <= outcome.metrics["test"] <= 120


@pytest.mark.slow
def test_other_processes_make_the_same_bytes(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")
    (source / "ant/notes.txt").write_text("not an image")
    made = []
    for processes in (1, 2):
        ctx = context_of(tmp_path / str(processes), "ingest")
        ctx.run.beam_processes = processes
        made.append((ingest.run(settings(source, max_bad_share=0.1), {}, ctx), contents(ctx)))
    assert made[0] == made[1]


def test_finished_shards_are_kept_and_only_the_missing_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, ctx = photos(tmp_path / "photos"), context_of(tmp_path, "ingest")
    config = settings(source)
    ingest.run(config, {}, ctx)
    before = contents(ctx)
    work = Path(ctx.work, "images")
    (work / "train-00001-of-00003.jsonl").unlink()
    (work / "test-00002-of-00003.parquet").unlink()
    (work / "test-00002-of-00003.jsonl").unlink()
    (work / ".train-00000-of-00003.parquet.half").write_bytes(b"PAR1 half of a file")
    ages = {path.name: path.stat().st_mtime_ns for path in work.iterdir()}
    ctx.out = str(tmp_path / "second")
    ingest.run(config, {}, ctx)
    assert contents(ctx) == before
    redone = {path.name for path in work.iterdir() if ages.get(path.name) != path.stat().st_mtime_ns}
    assert redone == {f"{n}-of-00003.{e}" for n in ("train-00001", "test-00002") for e in ("parquet", "jsonl")}
    assert ctx.progress.done == ctx.progress.total == 6  # type: ignore[attr-defined]
    assert any("4 of 6" in note for note in ctx.progress.notes)  # type: ignore[attr-defined]


def test_shards_of_other_images_do_not_count_as_finished(tmp_path: Path) -> None:
    source, ctx = photos(tmp_path / "photos"), context_of(tmp_path, "ingest")
    config = settings(source, source_digest="fixed")
    ingest.run(config, {}, ctx)
    (source / "ant/99.png").write_bytes((source / "ant/00.png").read_bytes())
    ctx.out = str(tmp_path / "second")
    assert ingest.run(config, {}, ctx).properties["written"] == 37


def test_a_storage_failure_in_a_shard_leaves_no_output(tmp_path: Path) -> None:
    source, ctx = photos(tmp_path / "photos"), context_of(tmp_path, "ingest")
    Path(ctx.work).mkdir(parents=True)
    Path(ctx.work, "images").write_text("in the way")
    with pytest.raises((NotADirectoryError, FileExistsError)):
        ingest.run(settings(source), {}, ctx)
    assert not Path(ctx.out).exists()


def test_the_source_state_follows_the_files_unless_a_digest_is_given(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")
    first = ingest.source_state(settings(source))
    os.utime(source / "ant/00.png", ns=(1, 1))
    assert ingest.source_state(settings(source)) != first
    assert ingest.source_state(settings(tmp_path / "nowhere", source_digest="abc")) == "abc"
    with pytest.raises(DataError, match=r"ingest\.source=.*nowhere: does not exist"):
        ingest.source_state(settings(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="only built-in data set is builtin:digits"):
        ingest.source_state(IngestConfig(source="builtin:letters"))
    with pytest.raises(DataError, match=r"set ingest\.split=hash"):
        ingest.run(IngestConfig(split="folders"), {}, context_of(tmp_path, "ingest"))


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    config = settings(photos(tmp_path / "photos"), test_fraction=1e-6)
    with pytest.raises(DataError, match="no images in the test split"):
        ingest.run(config, {}, context_of(tmp_path, "ingest"))
