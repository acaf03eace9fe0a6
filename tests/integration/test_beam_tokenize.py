"""`tokenize` and `reconstruct` through Beam: the tokenizer's own codes, keyed views, kept shards, no mixing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components import reconstruct
from components.contract.api import Artifact, Context, Outcome
from components.engines import devices
from components.tokenize import component as tokenize
from tests.support.ingested import contents, digits_table, tiny_tokenizer
from tests.support.synthetic import context_of
from vim_core.config import AugmentConfig, ReconstructConfig, TokenizeConfig
from vim_core.data.code_tables import CodeTable
from vim_core.data.image_loader import augment
from vim_core.data.image_tables import ImageTable, image_digest
from vim_core.data.images import center_crop, decode, from_tensor, to_tensor
from vim_core.errors import DataError, LineageError
from vim_core.models.vit_vqgan import Tokenizer, load_tokenizer

CONFIG = TokenizeConfig(views=3, seed=5, augment=AugmentConfig(rotate_degrees=10.0, shift=0.1, flip=0.5))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    root = tmp_path_factory.mktemp("inputs")
    return {"images": digits_table(root), "tokenizer": tiny_tokenizer(root)}


def loaded(inputs: dict[str, Artifact]) -> Tokenizer:
    return load_tokenizer(inputs["tokenizer"].uri("model.safetensors"), inputs["tokenizer"].uri("config.json"))


def codes_of(ctx: Any, split: str) -> CodeTable:
    return CodeTable([str(path) for path in sorted(Path(ctx.out, "codes").glob(f"{split}-*"))])


def test_codes_are_those_of_one_call_of_encode(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    """However Beam batches: codes equal those of preparing and encoding the images in one go."""
    ctx = context_of(tmp_path, "tokenize")
    outcome = tokenize.run(CONFIG, inputs, ctx)
    tokenizer = loaded(inputs)
    for split, views in (("train", 3), ("test", 1)):
        images = ImageTable(inputs["images"].uris(f"images/{split}-"))
        table = codes_of(ctx, split)
        assert table.keys == [key for key in images.keys for _ in range(views)]
        assert table.labels.tolist() == np.repeat(images.labels, views).tolist()
        assert table.view.tolist() == list(range(views)) * len(images)
        pixels = []
        for row, key in enumerate(images.keys):
            image = decode(images.image(row))
            pixels.append(center_crop(image, 16))
            pixels += [augment(image, 16, CONFIG.augment, (5, key, view)) for view in range(1, views)]
        assert np.array_equal(table.codes, tokenizer.encode(to_tensor(np.stack(pixels))).numpy())
        assert outcome.properties["splits"][split] == len(table)
    assert outcome.metrics == {"images": 90.0, "tokens": 4.0 * sum(outcome.properties["splits"].values())}
    _check_lineage(outcome, ctx, inputs)


def _check_lineage(outcome: Outcome, ctx: Context, inputs: dict[str, Artifact]) -> None:
    meta = codes_of(ctx, "train").meta
    assert (meta.tokenizer, meta.grid, meta.vocabulary, meta.split, meta.views) == ("0" * 64, (2, 2), 32, "train", 3)
    assert meta.augmentation[0] == {}
    assert meta.augmentation[2]["rotate_degrees"] == 10.0
    assert len(meta.augmentation) == 3
    assert codes_of(ctx, "test").meta.views == 1
    known = outcome.properties
    assert (known["tokenizer"], known["grid"], known["vocabulary"], known["views"]) == ("0" * 64, [2, 2], 32, 3)
    assert known["classes"] == inputs["images"].properties["classes"]
    with pytest.raises(LineageError, match="expected 111111111111"):
        codes_of(ctx, "train").check("1" * 64)


@pytest.fixture(scope="module")
def expected(inputs: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The code files of one process in memory."""
    ctx = context_of(tmp_path_factory.mktemp("expected"), "tokenize")
    tokenize.run(CONFIG, inputs, ctx)
    return contents(ctx)


@pytest.mark.slow
def test_other_processes_make_the_same_bytes(
    inputs: dict[str, Artifact], expected: dict[str, bytes], tmp_path: Path
) -> None:
    ctx = context_of(tmp_path, "tokenize")
    ctx.run.beam_processes = 2
    tokenize.run(CONFIG, inputs, ctx)
    assert contents(ctx) == expected


def test_a_job_server_with_loopback_workers_makes_the_same_bytes(
    inputs: dict[str, Artifact], expected: dict[str, bytes], tmp_path: Path
) -> None:
    from apache_beam.runners.portability.local_job_service import LocalJobServicer

    server = LocalJobServicer()
    port = server.start_grpc_server(0)
    try:
        ctx = context_of(tmp_path, "tokenize")
        ctx.run.beam_runner = "PortableRunner"
        ctx.run.beam_options = [f"--job_endpoint=localhost:{port}", "--environment_type=LOOPBACK"]
        tokenize.run(CONFIG, inputs, ctx)
    finally:
        server.stop()
    assert contents(ctx) == expected


def test_an_interruption_keeps_whole_shards_only(
    inputs: dict[str, Artifact], expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    class Failing(Tokenizer):
        def encode(self, images: torch.Tensor) -> torch.Tensor:
            calls.append(len(images))
            if len(calls) > 20:
                raise RuntimeError("power cut")
            return super().encode(images)

    ctx = context_of(tmp_path, "tokenize")
    failing = Failing(loaded(inputs).model)
    with monkeypatch.context() as patch:
        patch.setattr(devices, "cached_tokenizer", lambda *_: failing)
        with pytest.raises(RuntimeError, match="power cut"):
            tokenize.run(CONFIG, inputs, ctx)
    assert not Path(ctx.out).exists()
    left = {path: path.stat().st_mtime_ns for path in Path(ctx.work).rglob("*") if path.is_file()}
    assert 0 < len(left) < 6
    assert all(expected[f"codes/{path.name}"] == path.read_bytes() for path in left)
    tokenize.run(CONFIG, inputs, ctx)
    assert contents(ctx) == expected
    assert {path: path.stat().st_mtime_ns for path in left} == left
    assert any(f"{len(left)} of 6" in note for note in ctx.progress.notes)  # type: ignore[attr-defined]


def test_batches_have_one_shape_and_the_model_is_loaded_once(
    inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, sizes = [], []

    class Watched(Tokenizer):
        def encode(self, images: torch.Tensor) -> torch.Tensor:
            sizes.append(len(images))
            return super().encode(images)

    def load(*files: str) -> Tokenizer:
        loads.append(files)
        return Watched(loaded(inputs).model)

    monkeypatch.setattr(devices, "cached_tokenizer", load)
    outcome = tokenize.run(CONFIG, inputs, context_of(tmp_path, "tokenize"))
    artifact = inputs["tokenizer"]
    assert loads == [(artifact.uri("model.safetensors"), artifact.uri("config.json"), "cpu")]
    short = [size for size in sizes if size != 7]
    assert len(short) <= 6, "at most the last batch of each of 6 shards"
    assert all(size < 7 for size in short)
    assert sum(sizes) == sum(outcome.properties["splits"].values())


def test_an_empty_shard_becomes_an_empty_file(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    images = digits_table(tmp_path, limit=12, shards=9)
    sizes = [len(ImageTable([uri])) for uri in images.uris("images/test-")]
    assert 0 in sizes
    ctx = context_of(tmp_path, "tokenize")
    tokenize.run(CONFIG, {**inputs, "images": images}, ctx)
    assert [len(CodeTable([str(path)])) for path in sorted(Path(ctx.out, "codes").glob("test-*"))] == sizes


def test_work_of_another_numeric_class_is_not_continued(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    ctx = context_of(tmp_path, "tokenize")
    tokenize.run(CONFIG, inputs, ctx)
    ctx.run.threads = 2
    ctx.out = str(tmp_path / "second")
    tokenize.run(CONFIG, inputs, ctx)
    assert len({path.parent for path in Path(ctx.work).rglob("*.parquet")}) == 2


def test_reconstructions_are_decode_of_encode(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    ctx = context_of(tmp_path, "reconstruct")
    outcome = reconstruct.run(ReconstructConfig(), inputs, ctx)
    originals = ImageTable(inputs["images"].uris("images/test-"))
    made = ImageTable([str(path) for path in sorted(Path(ctx.out, "images").iterdir())])
    assert made.keys == originals.keys
    assert made.labels.tolist() == originals.labels.tolist()
    assert made.row_groups == originals.row_groups
    tokenizer = loaded(inputs)
    pixels = np.stack([center_crop(decode(data), 16) for data in originals.images(0, len(originals))])
    expected = from_tensor(tokenizer.decode(tokenizer.encode(to_tensor(pixels))))
    assert np.array_equal(np.stack([decode(data) for data in made.images(0, len(made))]), expected)
    assert outcome.properties["images"] == inputs["images"].digest
    assert outcome.properties["tokenizer"] == "0" * 64
    assert outcome.digest == image_digest({"test": made})


def test_a_limit_takes_the_first_images(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    ctx = context_of(tmp_path, "reconstruct")
    outcome = reconstruct.run(ReconstructConfig(limit=15), inputs, ctx)
    made = ImageTable([str(path) for path in sorted(Path(ctx.out, "images").iterdir())])
    assert made.keys == ImageTable(inputs["images"].uris("images/test-")).keys[:15]
    assert outcome.metrics == {"images": 15}


def test_a_damaged_shard_is_named_in_one_line(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    images = digits_table(tmp_path, limit=40, shards=2)
    Path(images.uri("images/train-00001-of-00002.parquet")).write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"^\S*train-00001-of-00002.parquet: not a whole Parquet file.*--force$"):
        tokenize.run(CONFIG, {**inputs, "images": images}, context_of(tmp_path, "tokenize"))
