"""The training components without Ray: the files of workers, the outcome, and errors that reach the user."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from components import classify, prior, quantize
from components.contract.api import Artifact, Context, Outcome
from components.contract.code import Code
from components.contract.fingerprint import result_settings
from components.engines.ray import session
from components.training import driver
from components.training.worker import drain_notice
from tests.support import tiny_artifacts
from tests.support.synthetic import artifact, context_of, with_fields
from tests.support.tiny import classify_config, prior_config, quantize_config
from vim_core.config import AugmentConfig
from vim_core.errors import CodeError, ConfigError, LineageError, VimError
from vim_core.models.vit_vqgan import load_tokenizer
from vim_core.storage import io
from vim_core.training.interruptions import Preemption
from vim_core.training.spool import parse_rows

pytestmark = pytest.mark.usefixtures("trained_here")


@pytest.fixture
def codes(tmp_path: Path) -> tuple[Artifact, Artifact]:
    tokenizer = tiny_artifacts.tokenizer(tmp_path)
    labels = {"train": np.arange(13) % 3, "test": np.arange(5) % 3}
    return tiny_artifacts.codes(tmp_path, tokenizer, labels), tokenizer


def output_files(ctx: Context) -> set[str]:
    return {str(path.relative_to(ctx.out)) for path in Path(ctx.out).rglob("*") if path.is_file()}


def check_common(outcome: Outcome, ctx: Context) -> None:
    """Files, figures, curves and progress that every training leaves."""
    assert {"model.safetensors", "config.json", "curves.jsonl"} <= output_files(ctx)
    assert outcome.extras == {name for name in output_files(ctx) if name.startswith(("pictures/", "curves"))}
    assert outcome.properties["trained_by"] == "in the test"
    assert outcome.properties["resumed_from"] == 0
    assert outcome.numeric == {
        "device": "cpu",
        "dtype": "fp32",
        "threads": 1,
        "world": 1,
        "compiled": False,
        "products": "fp32",
        "hardware": "",
        "deterministic": True,
        "product_gflops": 12.3,
    }
    curves = parse_rows(Path(ctx.path("curves.jsonl")).read_bytes())
    assert [row["step"] for row in curves] == list(range(6))
    assert [row.step for row in ctx.tracker.logged] == list(range(6))  # type: ignore[attr-defined]
    assert ctx.progress.done == 6  # type: ignore[attr-defined]
    assert not any("matrix products" in note for note in ctx.progress.notes)  # type: ignore[attr-defined]
    assert outcome.properties["summary"].startswith("6 steps in ")


def test_quantize_leaves_a_tokenizer_and_pictures(images: Artifact, tmp_path: Path) -> None:
    ctx = context_of(tmp_path, "quantize")
    outcome = quantize.run(quantize_config(keep=1), {"images": images}, ctx)
    check_common(outcome, ctx)
    found = [str(path.relative_to(ctx.work)) for path in Path(ctx.work).rglob("index.json")]
    assert found == ["cpu-fp32-t1/step-00000006/index.json"], "one place for any number of workers"
    assert any(name.startswith("pictures/reconstructions-") for name in output_files(ctx))
    tokenizer = load_tokenizer(ctx.path("model.safetensors"), ctx.path("config.json"))
    assert outcome.properties["grid"] == list(tokenizer.grid) == [2, 2]
    assert outcome.properties["vocabulary"] == tokenizer.vocabulary
    assert outcome.properties["images"] == images.digest
    assert outcome.metrics["test_psnr_db"] > 0


def test_evaluations_reach_the_curves_and_mlflow(images: Artifact, tmp_path: Path) -> None:
    ctx = context_of(tmp_path, "quantize")
    outcome = quantize.run(quantize_config(evaluate_every=6), {"images": images}, ctx)
    curves = parse_rows(Path(ctx.path("curves.jsonl")).read_bytes())
    (found,) = [row for row in curves if "eval/psnr_db" in row["m"]]
    assert (found["step"], found["m"]["eval/psnr_db"]) == (5, pytest.approx(outcome.metrics["test_psnr_db"]))
    assert "reconstruction_fd_classifier" not in str(found)
    (delivered,) = [row for row in ctx.tracker.logged if "eval/psnr_db" in row.values]  # type: ignore[attr-defined]
    assert (delivered.step, delivered.values) == (5, found["m"])
    groups = {name.split("/")[0] for row in ctx.tracker.logged for name in row.values}  # type: ignore[attr-defined]
    assert groups == {"train", "system", "eval"}


def test_the_presets_classifier_gives_a_distance_once_it_is_made(
    images: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = context_of(tmp_path, "quantize")
    ctx.pipeline.components = ["ingest", "classify", "quantize"]
    made = context_of(tmp_path / "classify", "classify")
    classify.run(classify_config(features=3), {"images": images}, made)
    files = artifact(
        tmp_path, "classify", {name: given(made.path(name)) for name in ("model.safetensors", "config.json")}
    )
    artifacts: list[Artifact | None] = [None, files]
    monkeypatch.setattr(
        "components.artifacts.execute.find", lambda name, config, known: artifacts.pop(0) if known else None
    )
    for expected in (False, True):
        quantize.run(quantize_config(evaluate_every=6), {"images": images}, replace(ctx, out=f"{ctx.out}-{expected}"))
        curves = parse_rows(Path(f"{ctx.out}-{expected}/curves.jsonl").read_bytes())
        assert any("eval/reconstruction_fd_classifier" in row["m"] for row in curves) is expected
        shutil.rmtree(ctx.work)


def given(path: str) -> Callable[[str], Any]:
    return lambda uri: shutil.copy(path, uri)


def test_classify_records_its_accuracy_with_a_protocol(images: Artifact, tmp_path: Path) -> None:
    ctx = context_of(tmp_path, "classify")
    outcome = classify.run(classify_config(), {"images": images}, ctx)
    check_common(outcome, ctx)
    assert outcome.metrics["test_images"] == 5
    record = outcome.protocols["test_accuracy"]
    assert (record["count"], record["reference_digest"]) == (5, images.digest)


@pytest.mark.parametrize("conditional", [True, False])
def test_prior_records_its_conditions(codes: tuple[Artifact, Artifact], tmp_path: Path, conditional: bool) -> None:
    ctx = context_of(tmp_path, "prior")
    config = prior_config(conditional=conditional, label_dropout=0.0)
    outcome = prior.run(config, {"codes": codes[0], "tokenizer": codes[1]}, ctx)
    check_common(outcome, ctx)
    assert outcome.properties["null_trained"] is (not conditional)
    assert outcome.properties["classes"] == (tiny_artifacts.CLASSES if conditional else [])
    assert outcome.properties["tokenizer"] == codes[1].digest
    assert any(name.startswith("pictures/samples-") for name in output_files(ctx))
    assert "of the measured product rate" in outcome.properties["summary"]
    record = json.loads(Path(ctx.path("config.json")).read_text())["shape"]
    assert (record["classes"], record["tokenizer"]) == (3 if conditional else 0, codes[1].digest)


def test_prior_encodes_images_and_records_it(
    images: Artifact, codes: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    table, tokenizer = with_lineage(images, codes)
    inputs = {"codes": table, "tokenizer": tokenizer, "images": images}
    ctx = context_of(tmp_path, "prior")
    outcome = prior.run(prior_config(source="images", augment=AugmentConfig(flip=0.5)), inputs, ctx)
    check_common(outcome, ctx)
    assert outcome.properties["source"] == "images"
    assert outcome.properties["images"] == images.digest
    assert outcome.properties["encode"] == ENCODE
    plain = prior.run(prior_config(), inputs, context_of(tmp_path / "plain", "prior"))
    assert plain.properties["source"] == "codes"
    assert not {"images", "encode"} & plain.properties.keys()
    assert plain.metrics["unigram_bits_per_token"] == outcome.metrics["unigram_bits_per_token"]


def test_prior_refuses_images_that_the_held_out_codes_are_not_of(
    images: Artifact, codes: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    table, tokenizer = with_lineage(images, codes)
    inputs = {"codes": table, "tokenizer": tokenizer, "images": with_fields(images, digest="other-images")}
    with pytest.raises(LineageError, match=r"were made from images digest-of-in, but .* would train on other-images"):
        prior.run(prior_config(source="images"), inputs, context_of(tmp_path, "prior"))
    del inputs["images"]
    with pytest.raises(ConfigError, match="needs ingest among the preset's components"):
        prior.run(prior_config(source="images"), inputs, context_of(tmp_path, "prior"))


ENCODE = {"dtype": "fp32", "mode": "eager", "batch": 5}


def with_lineage(images: Artifact, codes: tuple[Artifact, Artifact]) -> tuple[Artifact, Artifact]:
    """Code table and tokenizer with the properties of their inputs and of the encoding."""
    table = with_fields(codes[0], properties={**codes[0].properties, "images": images.digest})
    return table, with_fields(codes[1], properties={**codes[1].properties, "encode": ENCODE})


def test_compilation_is_part_of_the_numeric_class(
    codes: tuple[Artifact, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []

    def fake(network: Any, **options: Any) -> Any:
        compiled.append(options)
        return network

    monkeypatch.setattr("torch.compile", fake)
    ctx = context_of(tmp_path, "prior")
    outcome = prior.run(prior_config(compile="on"), {"codes": codes[0], "tokenizer": codes[1]}, ctx)
    assert compiled == [{"dynamic": False}]
    assert outcome.numeric["compiled"] is True
    assert io.list_names(io.join(ctx.work, "cpu-fp32-t1-compiled"))
    assert result_settings(prior_config(compile="on")) == result_settings(prior_config())


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
    # As if the first attempt had been on a machine with more cores.
    Path(ctx.work, "cpu-fp32-t1").rename(Path(ctx.work, "cpu-fp32-t7"))
    outcome = quantize.run(quantize_config(), {"images": images}, ctx)
    assert (outcome.properties["resumed_from"], outcome.properties["resumed_class"]) == (4, "cpu-fp32-t7")
    assert any("another numeric class: cpu-fp32-t7" in note for note in ctx.progress.notes)  # type: ignore[attr-defined]
    for name in ("model.safetensors", "config.json"):
        assert Path(ctx.path(name)).read_bytes() == Path(whole_ctx.path(name)).read_bytes()
    assert [row.step for row in ctx.tracker.logged] == list(range(6))  # type: ignore[attr-defined]


@pytest.mark.parametrize(("rank", "world"), [(0, 1), (0, 2), (1, 2)])
def test_a_refusal_of_any_worker_reaches_the_user_unchanged(
    images: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, world: int
) -> None:
    context = SimpleNamespace(
        get_world_rank=lambda: rank,
        get_world_size=lambda: world,
        get_local_rank=lambda: rank,
        get_node_rank=lambda: 0,
    )
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

    stand_in = SimpleNamespace(train=SimpleNamespace(get_context=lambda: context))
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    monkeypatch.setattr(session, "fit", fit)
    # No second worker is there to agree with on the newest checkpoint; the refusal comes after it.
    monkeypatch.setattr("vim_core.checkpoint.checkpoints.Checkpoints.latest", lambda self: None)
    config = quantize_config()
    config = replace(config, discriminator=replace(config.discriminator, stddev_group=3))
    with pytest.raises(ConfigError, match=r"stddev_group=3: does not divide a worker's batch of"):
        quantize.run(config, {"images": images}, context_of(tmp_path, "quantize"))
    monkeypatch.setattr(driver, "current", lambda: Code("/opt/vim", "0.0.1", "0123456789ab"))
    with pytest.raises(CodeError, match=r"another code .* than the command \(version 0\.0\.1, .* in /opt/vim\)"):
        quantize.run(quantize_config(), {"images": images}, context_of(tmp_path, "quantize"))


def test_a_stuck_worker_is_named_with_its_stacks(
    images: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(worker: Callable[[dict[str, Any]], None], arguments: dict[str, Any], ctx: Context, local: bool) -> str:
        stuck = Path(arguments["job"].stuck)
        stuck.mkdir(parents=True)
        (stuck / "worker-00000-1.txt").write_text("worker 0: step 3 took too long\nTimeout (0:00:05)!\n  File ...")
        raise VimError("quantize: training failed: ActorDiedError: The actor died unexpectedly")

    monkeypatch.setattr(session, "fit", fit)
    ctx = context_of(tmp_path, "quantize")
    with pytest.raises(
        VimError, match=r"died unexpectedly; worker 0: step 3 took too long; its stacks are in .*1\.txt"
    ):
        quantize.run(quantize_config(), {"images": images}, ctx)


@pytest.mark.parametrize(("info", "expected"), [(None, Preemption.NONE), (object(), Preemption.SAVE)])
def test_a_drained_node_is_a_notice_to_save(
    monkeypatch: pytest.MonkeyPatch, info: object, expected: Preemption
) -> None:
    stand_in = SimpleNamespace(train=SimpleNamespace(get_preemption_info=lambda: info))
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    assert drain_notice() is expected
