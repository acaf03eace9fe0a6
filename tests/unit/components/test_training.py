"""The training components without Ray: what workers leave, what the outcome says, and how refusals travel."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from components import classify, prior, quantize, ray_train, training
from components.api import Artifact, Context, Outcome
from tests.synthetic import artifact, context_of, image_files, rows, with_fields
from tests.unit.components import models
from tests.unit.vim_core.tiny import classify_config, pixels, prior_config, quantize_config
from vim_core.errors import ConfigError, LineageError, VimError
from vim_core.models.vit_vqgan import load_tokenizer
from vim_core.spool import parse


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker, here, with the slow measurement left out."""

    def fit(worker: Callable[[dict[str, Any]], None], arguments: dict[str, Any], ctx: Context, local: bool) -> str:
        training.run_task(arguments["job"], 0, 1, 0)
        return "in the test"

    monkeypatch.setattr(ray_train, "fit", fit)
    monkeypatch.setattr("vim_core.runtime.measure.product_rate", lambda runtime: 12.3)


@pytest.fixture
def images(tmp_path: Path) -> Artifact:
    files: dict[str, Any] = {}
    for split, count in {"train": 13, "test": 5}.items():
        keys = [f"{split}-{i:03d}" for i in range(count)]
        files |= image_files(split, rows(keys, [i % 3 for i in range(count)], pixels(count, 8)), 2)
    return artifact(
        tmp_path, "ingest", files, properties={"classes": models.CLASSES, "splits": {"train": 13, "test": 5}}
    )


@pytest.fixture
def codes(tmp_path: Path) -> tuple[Artifact, Artifact]:
    tokenizer = models.tokenizer(tmp_path)
    labels = {"train": np.arange(13) % 3, "test": np.arange(5) % 3}
    return models.codes(tmp_path, tokenizer, labels), tokenizer


def kept(ctx: Context) -> set[str]:
    return {str(path.relative_to(ctx.out)) for path in Path(ctx.out).rglob("*") if path.is_file()}


def check_common(outcome: Outcome, ctx: Context) -> None:
    """Files, figures, curves and progress that every training leaves."""
    assert {"model.safetensors", "config.json", "curves.jsonl"} <= kept(ctx)
    assert outcome.extras == {name for name in kept(ctx) if name.startswith(("pictures/", "curves"))}
    assert outcome.properties["trained_by"] == "in the test"
    assert outcome.properties["resumed_from"] == 0
    assert outcome.numeric == {"device": "cpu", "dtype": "fp32", "threads": 1, "world": 1, "product_gflops": 12.3}
    curves = parse(Path(ctx.path("curves.jsonl")).read_bytes())
    assert [row["step"] for row in curves] == list(range(6))
    assert [row.step for row in ctx.tracker.logged] == list(range(6))  # type: ignore[attr-defined]
    assert ctx.progress.done == 6  # type: ignore[attr-defined]
    assert any("cpu-fp32-t1-w1" in note for note in ctx.progress.notes)  # type: ignore[attr-defined]


def test_quantize_leaves_a_tokenizer_and_pictures(images: Artifact, tmp_path: Path) -> None:
    ctx = context_of(tmp_path, "quantize")
    outcome = quantize.run(quantize_config(), {"images": images}, ctx)
    check_common(outcome, ctx)
    assert any(name.startswith("pictures/reconstructions-") for name in kept(ctx))
    tokenizer = load_tokenizer(ctx.path("model.safetensors"), ctx.path("config.json"))
    assert outcome.properties["grid"] == list(tokenizer.grid) == [2, 2]
    assert outcome.properties["vocabulary"] == tokenizer.vocabulary
    assert outcome.properties["images"] == images.digest
    assert outcome.metrics["test_psnr_db"] > 0


def test_classify_says_its_accuracy_and_on_what(images: Artifact, tmp_path: Path) -> None:
    ctx = context_of(tmp_path, "classify")
    outcome = classify.run(classify_config(), {"images": images}, ctx)
    check_common(outcome, ctx)
    assert outcome.metrics["test_images"] == 5
    record = outcome.protocols["test_accuracy"]
    assert (record["count"], record["reference_digest"]) == (5, images.digest)


@pytest.mark.parametrize("conditional", [True, False])
def test_prior_says_what_it_was_conditioned_on(
    codes: tuple[Artifact, Artifact], tmp_path: Path, conditional: bool
) -> None:
    ctx = context_of(tmp_path, "prior")
    config = prior_config(conditional=conditional, label_dropout=0.0)
    outcome = prior.run(config, {"codes": codes[0], "tokenizer": codes[1]}, ctx)
    check_common(outcome, ctx)
    assert outcome.properties["null_trained"] is (not conditional)
    assert outcome.properties["classes"] == (models.CLASSES if conditional else [])
    assert outcome.properties["tokenizer"] == codes[1].digest
    record = json.loads(Path(ctx.path("config.json")).read_text())["shape"]
    assert (record["classes"], record["tokenizer"]) == (3 if conditional else 0, codes[1].digest)


def test_prior_refuses_codes_of_another_tokenizer(codes: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    other = with_fields(codes[1], digest="another-tokenizer")
    with pytest.raises(LineageError, match="made by tokenizer digest-of-qu, not by another-toke"):
        prior.run(prior_config(), {"codes": codes[0], "tokenizer": other}, context_of(tmp_path, "prior"))


def test_a_second_attempt_continues_and_delivers_every_step_once(
    images: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vim_core.tasks.quantizer import QuantizerTask

    own = QuantizerTask.step

    def dying(self: QuantizerTask, step: int, batch: Any) -> Any:
        if step == 5:
            raise KeyboardInterrupt
        return own(self, step, batch)

    whole_ctx = context_of(tmp_path / "whole", "quantize")
    quantize.run(quantize_config(), {"images": images}, whole_ctx)
    ctx = context_of(tmp_path / "killed", "quantize")
    with monkeypatch.context() as patch:
        patch.setattr(QuantizerTask, "step", dying)
        with pytest.raises(KeyboardInterrupt):
            quantize.run(quantize_config(), {"images": images}, ctx)
    outcome = quantize.run(quantize_config(), {"images": images}, ctx)
    assert outcome.properties["resumed_from"] == 4
    for name in ("model.safetensors", "config.json"):
        assert Path(ctx.path(name)).read_bytes() == Path(whole_ctx.path(name)).read_bytes()
    assert [row.step for row in ctx.tracker.logged] == list(range(6))  # type: ignore[attr-defined]


@pytest.mark.parametrize(("rank", "world"), [(0, 1), (0, 2), (1, 2)])
def test_a_refusal_of_any_worker_reaches_the_user_as_it_is(
    images: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, world: int
) -> None:
    place = SimpleNamespace(get_world_rank=lambda: rank, get_world_size=lambda: world, get_local_rank=lambda: rank)
    attempts = []

    def fit(worker: Callable[[dict[str, Any]], None], arguments: dict[str, Any], ctx: Context, local: bool) -> str:
        for _ in range(3):
            try:
                worker(arguments)
            except VimError as error:
                attempts.append(error)
        if attempts:
            raise RuntimeError("Ray's own words for a lost worker")
        return "in the test"

    stand_in = SimpleNamespace(train=SimpleNamespace(get_context=lambda: place))
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    monkeypatch.setattr(ray_train, "fit", fit)
    config = quantize_config()
    config = replace(config, discriminator=replace(config.discriminator, stddev_group=3))
    with pytest.raises(ConfigError, match=r"stddev_group=3: does not divide a worker's batch of"):
        quantize.run(config, {"images": images}, context_of(tmp_path, "quantize"))
