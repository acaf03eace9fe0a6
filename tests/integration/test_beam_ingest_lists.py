"""`ingest` by list files and without labels; unlabelled images in all later components."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components import prior
from components import reconstruct as reconstructing
from components.contract.api import InputRecord
from components.contract.fingerprint import result_settings
from components.ingest import component as ingest
from components.report import page
from components.sample import component as sample
from components.score import component as score
from components.tokenize import component as tokenize
from tests.support import tiny_artifacts
from tests.support.ingested import dead_letters, image_table_of, kept, tiny_tokenizer
from tests.support.synthetic import context_of, with_fields
from tests.support.tiny import prior_config
from vim_core.config import IngestConfig, ReconstructConfig, SampleConfig, ScoreConfig, TokenizeConfig
from vim_core.data.images import encode_png
from vim_core.distributed.runtimes.base import CpuRuntime
from vim_core.errors import ConfigError, DataError
from vim_core.tasks.prior import PriorData, PriorTask


def faces(folder: Path, count: int = 30, name: str = "imgHQ{:05d}.png") -> Path:
    """A flat folder of PNG images of noise, 20x20."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / name.format(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)))
    return folder


def write_lists(folder: Path, train: list[str], test: list[str]) -> dict[str, str]:
    """The two list files, as settings."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, lines in (("train", train), ("test", test)):
        (folder / f"{split}.txt").write_text("".join(f"{line}\n" for line in lines))
    return {f"{split}_list": str(folder / f"{split}.txt") for split in ("train", "test")}


def config(source: Path, **changes: Any) -> IngestConfig:
    return IngestConfig(
        **{"source": str(source), "split": "lists", "labelled": False, "shards": 2, "keys": "path", **changes}
    )


def names(*numbers: int) -> list[str]:
    return [f"imgHQ{number:05d}.npy" for number in numbers]


def test_lists_decide_which_images_are_held_out_or_left_out(tmp_path: Path) -> None:
    """As taming-transformers has CelebA-HQ: lists of .npy names over a flat folder of PNG images."""
    source, ctx = faces(tmp_path / "faces"), context_of(tmp_path, "ingest")
    lists = write_lists(tmp_path, names(*range(0, 20)), names(25, 22, 27))
    outcome = ingest.run(config(source, **lists), {}, ctx)
    assert sorted(image_table_of(ctx, "train").keys) == [f"imgHQ{number:05d}.png" for number in range(20)]
    assert sorted(image_table_of(ctx, "test").keys) == [f"imgHQ{number:05d}.png" for number in (22, 25, 27)]
    for split in ("train", "test"):
        assert set(image_table_of(ctx, split).labels.tolist()) == {-1}
    properties = outcome.properties
    counts = (properties["read"], properties["written"], properties["left_out"], properties["dead_letter"])
    assert counts == (23, 23, 7, 0)
    assert "7 files are in neither list and left out" in ctx.progress.notes  # type: ignore[attr-defined]
    assert properties["classes"] == []
    assert {split: rule["lines"] for split, rule in properties["split_rule"].items()} == {"train": 20, "test": 3}


def test_ffhqs_folders_of_a_thousand_are_no_classes(tmp_path: Path) -> None:
    source, ctx = faces(tmp_path / "faces", 10, "0000{0:.0e}/{0:05d}.png"), context_of(tmp_path, "ingest")
    assert len(list(source.iterdir())) > 1
    lists = write_lists(tmp_path, [f"{n:05d}.png" for n in range(8)], [f"{n:05d}.png" for n in (8, 9)])
    assert ingest.run(config(source, **lists), {}, ctx).properties["splits"] == {"train": 8, "test": 2}


def test_class_folders_may_be_split_by_lists(tmp_path: Path) -> None:
    source = faces(faces(tmp_path / "photos", 4, "ant/{}.png").parent / "photos", 4, "bee/{}.png")
    faces(source, 1, "cow/{}.png")
    lists = write_lists(tmp_path, ["ant/0.png", "ant/1", "bee/0.png"], ["bee/3.png", "cow/0.png"])
    ctx = context_of(tmp_path, "ingest")
    outcome = ingest.run(config(source, labelled=True, max_bad_share=0.3, **lists), {}, ctx)
    assert outcome.properties["classes"] == ["ant", "bee"]
    assert dict(zip(image_table_of(ctx, "train").keys, image_table_of(ctx, "train").labels.tolist(), strict=True)) == {
        "ant/0.png": 0,
        "ant/1.png": 0,
        "bee/0.png": 1,
    }
    assert dead_letters(ctx) == {"cow/0.png": "class 'cow' is not among the classes of ingest.train_list"}
    assert outcome.properties["left_out"] == 4


def test_a_listed_image_that_is_not_there_counts_as_bad(tmp_path: Path) -> None:
    source, ctx = faces(tmp_path / "faces"), context_of(tmp_path, "ingest")
    lists = write_lists(tmp_path, names(*range(18), 77), names(20, 88))
    outcome = ingest.run(config(source, max_bad_share=0.1, **lists), {}, ctx)
    assert dead_letters(ctx) == {
        "imgHQ00077.npy": "listed in ingest.train_list but not below the source",
        "imgHQ00088.npy": "listed in ingest.test_list but not below the source",
    }
    assert (outcome.properties["read"], outcome.properties["written"]) == (21, 19)
    with pytest.raises(DataError, match=r"max_bad_share=0\.05: 2 of 21 .*first: imgHQ00077\.npy: listed in ingest\.tr"):
        ingest.run(config(source, max_bad_share=0.05, **lists), {}, context_of(tmp_path / "strict", "ingest"))


def test_an_image_in_both_lists_is_refused(tmp_path: Path) -> None:
    lists = write_lists(tmp_path, names(1, 2, 3), ["imgHQ00003.png"])
    with pytest.raises(DataError, match=r"both name imgHQ00003\.png"):
        ingest.run(config(faces(tmp_path / "faces"), **lists), {}, context_of(tmp_path, "ingest"))


def test_the_fingerprint_follows_the_content_of_the_lists_not_their_address(tmp_path: Path) -> None:
    source = faces(tmp_path / "faces", 6)
    one, moved, other = (
        config(source, **write_lists(tmp_path / folder, names(*train), names(5)))
        for folder, train in (("a", (1, 2)), ("b", (1, 2)), ("c", (1, 3)))
    )
    states = [ingest.source_state(settings) for settings in (one, moved, other)]
    assert states[0] == states[1] != states[2]
    assert result_settings(one) == result_settings(moved)
    fixed = [ingest.source_state(replace(settings, source_digest="abc")) for settings in (one, moved, other)]
    assert fixed[0] == fixed[1] != fixed[2]
    assert "abc" not in fixed
    with pytest.raises(DataError, match=r"ingest\.test_list=.*none\.txt: cannot be read"):
        ingest.source_state(replace(one, test_list=str(tmp_path / "none.txt")))


def test_without_labels_any_split_takes_a_flat_folder(tmp_path: Path) -> None:
    source, ctx = faces(tmp_path / "faces"), context_of(tmp_path, "ingest")
    outcome = ingest.run(config(source, split="hash", test_fraction=0.3), {}, ctx)
    assert outcome.properties["written"] == 30
    assert set(image_table_of(ctx, "train").labels.tolist()) == {-1}
    halves = faces(faces(tmp_path / "halves", 5, "train/{}.png"), 3, "val/{}.png")
    outcome = ingest.run(config(halves, split="folders"), {}, context_of(tmp_path / "2", "ingest"))
    assert outcome.properties["splits"] == {"train": 5, "test": 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "hash", "test_list": "x"}, r"ingest\.test_list='x': is read for ingest\.split=lists only"),
        ({"train_list": "x"}, r"ingest\.test_list='': name a text file for ingest\.split=lists"),
        ({"split": "hash", "classes": ["a"]}, r"ingest\.classes=\['a'\]: has no use with labelled=false"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, **changes)


def test_unlabelled_images_pass_through_every_later_component(tmp_path: Path) -> None:
    """Codes, an unconditional prior, samples and scores of images whose label is -1."""
    source = faces(tmp_path / "faces", 24)
    settings = config(source, **write_lists(tmp_path, names(*range(18)), names(*range(18, 24))))
    ctx = context_of(tmp_path, "ingest")
    images = kept(ingest.run(settings, {}, ctx), ctx, settings)
    tokenizer = tiny_tokenizer(tmp_path)
    pair = {"images": images, "tokenizer": tokenizer}
    ctx = context_of(tmp_path, "tokenize")
    codes = kept(tokenize.run(TokenizeConfig(views=2), pair, ctx), ctx, TokenizeConfig())
    ctx = context_of(tmp_path, "reconstruct")
    reconstructions = kept(reconstructing.run(ReconstructConfig(), pair, ctx), ctx, ReconstructConfig())
    unconditional = prior_config(conditional=False, label_dropout=0.0)
    data = PriorData(codes.uris("codes/train-"), codes.uris("codes/test-"), 0, tokenizer.digest)
    task = PriorTask(unconditional, data, CpuRuntime("fp32", threads=1))
    assert set(task.batch(0)["labels"].tolist()) == {task.model.null_class} == {0}
    assert np.isfinite(float(task.step(0, task.batch(0))["loss"]))
    assert np.isfinite(task.finish()["nll_bits_per_token"])
    assert "without a label" in prior.protocols(unconditional, codes)["nll_bits_per_token"]["compares"]
    drawn_from = tiny_artifacts.prior(tmp_path, tiny_artifacts.tokenizer(tmp_path), conditional=False)
    drawn = sample.run(
        SampleConfig(count=3, lanes=2, shards=1),
        {"prior": drawn_from, "tokenizer": tiny_artifacts.tokenizer(tmp_path)},
        context_of(tmp_path, "sample"),
    )
    assert drawn.properties["protocol"]["labels"] == "none"
    codes = with_fields(codes, inputs={"images": InputRecord("ingest", "f" * 20, images.digest)})
    judged = {"images": images, "codes": codes, "reconstructions": reconstructions}
    scored = score.run(ScoreConfig(usage_batch=6), judged, context_of(tmp_path, "score"))
    assert {"psnr_db", "codebook_usage"} <= set(scored.metrics)
    assert "18 train and 6 test images without labels" in page.summary({"ingest": images})
