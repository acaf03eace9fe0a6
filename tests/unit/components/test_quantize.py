"""`quantize` from another tokenizer: its files, fingerprint and lineage; skipped updates are recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from components import quantize
from components.artifacts import execute, store
from components.contract.api import Artifact
from tests.support import fakes, tiny_artifacts
from tests.support.synthetic import context_of, with_fields
from tests.support.tiny import pixels, quantize_config
from vim_core.config import CodebookConfig, PipelineConfig, QuantizeConfig, RunConfig, StackConfig
from vim_core.errors import ConfigError, DataError, NonFiniteError
from vim_core.models.vit_vqgan import Tokenizer, load_tokenizer
from vim_core.tasks.quantizer import QuantizerTask

LARGER = StackConfig(blocks=2, heads=2, dim=24, mlp=40)
STILL = CodebookConfig(codes=16, dim=4)


pytestmark = pytest.mark.usefixtures("trained_here")


def finetuned(folder: str) -> QuantizeConfig:
    return quantize_config(init_from=folder, freeze_encoder=True, codebook=STILL, decoder=LARGER)


def tokenizer_of(folder: str) -> Tokenizer:
    return load_tokenizer(f"{folder}/model.safetensors", f"{folder}/config.json")


def test_finetuning_keeps_the_codes_and_names_its_origin(images: Artifact, tmp_path: Path) -> None:
    old = tiny_artifacts.tokenizer(tmp_path / "old")
    ctx = context_of(tmp_path, "quantize")
    outcome = quantize.run(finetuned(old.folder), {"images": images}, ctx)
    state = quantize.source_state(finetuned(old.folder))
    assert outcome.properties["started_from"] == {"tokenizer": state, "decoder": False, "frozen": True}
    record = json.loads(Path(ctx.path("config.json")).read_text())["quantize"]
    assert record["init_from"] == f"digest:{state}"
    pictures = torch.from_numpy(pixels(20, 8, 3)).permute(0, 3, 1, 2) / 255
    codes = tokenizer_of(old.folder).encode(pictures)
    assert torch.equal(tokenizer_of(ctx.out).encode(pictures), codes)
    assert not torch.equal(tokenizer_of(ctx.out).decode(codes), tokenizer_of(old.folder).decode(codes))


def pipeline(root: Path, config: QuantizeConfig) -> PipelineConfig:
    return PipelineConfig(
        "test", ["ingest", "quantize"], RunConfig(root=str(root), threads=1, device="cpu"), quantize=config
    )


def test_the_fingerprint_holds_the_tokenizer_not_its_folder(images: Artifact, tmp_path: Path) -> None:
    old, other = tiny_artifacts.tokenizer(tmp_path / "old"), tiny_artifacts.tokenizer(tmp_path / "other", patch=2)
    copied = tmp_path / "copy"
    shutil.copytree(old.folder, copied)

    def fingerprint(folder: str) -> str:
        asked = execute._request("quantize", pipeline(tmp_path, finetuned(folder)), {"images": images})
        return asked.fingerprint

    assert fingerprint(old.folder) == fingerprint(str(copied))
    assert fingerprint(old.folder) != fingerprint(other.folder)
    assert quantize.source_state(quantize_config()) == ""


def test_an_artifact_is_found_by_its_manifest(
    images: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"ingest": images}
    config = pipeline(tmp_path, quantize_config())
    made = execute.execute("quantize", config, fakes.reporting(), cache=known).artifact
    assert not (Path(made.folder) / "model.safetensors").exists()
    # The digest of the two files is that of the whole artifact, so it names it.
    assert quantize.source_state(finetuned(made.folder)) == made.digest
    again = pipeline(tmp_path, finetuned(made.folder))
    result = execute.execute("quantize", again, fakes.reporting(), cache={"ingest": images}).artifact
    assert result.manifest.properties["started_from"]["tokenizer"] == made.digest
    assert result.manifest.fingerprint != made.manifest.fingerprint
    moved = tmp_path / "plain"
    moved.mkdir()
    for name in ("model.safetensors", "config.json"):
        shutil.copy(made.uri(name), moved / name)
    assert quantize.source_state(finetuned(str(moved))) == made.digest
    # The hashes of the manifest are not checked here; loading the weights checks them.
    Path(made.uri("model.safetensors")).write_bytes(b"something else")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="it was changed"):
        quantize.run(finetuned(made.folder), {"images": images}, context_of(tmp_path / "c", "quantize"))


def test_folders_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    old = tiny_artifacts.tokenizer(tmp_path / "old")
    (Path(old.folder) / "config.json").unlink()
    with pytest.raises(DataError, match=r"init_from='.*': neither manifest\.json nor config\.json lies there"):
        quantize.source_state(finetuned(old.folder))
    (Path(old.folder) / "manifest.json").write_bytes(store.dump(with_fields(old, component="prior").manifest))
    with pytest.raises(ConfigError, match="is an artifact of prior, not of quantize"):
        quantize.source_state(finetuned(old.folder))


def broken_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    own = QuantizerTask.step

    def breaking(self: QuantizerTask, number: int, batch: Any) -> Any:
        if number == step:
            batch["images"][0] = torch.nan
        return own(self, number, batch)

    monkeypatch.setattr(QuantizerTask, "step", breaking)


def test_skipped_updates_are_on_record(images: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_at(3, monkeypatch)
    ctx = context_of(tmp_path, "quantize")
    outcome = quantize.run(quantize_config(), {"images": images}, ctx)
    assert "nonfinite.jsonl" in outcome.extras
    (row,) = [json.loads(line) for line in Path(ctx.path("nonfinite.jsonl")).read_text().splitlines()]
    assert row["step"] == 3
    assert {"l2", "logit_laplace", "discriminator.discriminator"} <= set(row["nonfinite"])
    assert len(row["samples"]) == 4
    assert all(key.startswith("train-") for key in row["samples"])
    assert any("step 3: not finite: " in note for note in ctx.progress.notes)  # type: ignore[attr-defined]
    curves = [json.loads(line) for line in Path(ctx.path("curves.jsonl")).read_text().splitlines()]
    assert [row["m"]["discriminator_skipped"] for row in curves] == [0, 0, 0, 1, 0, 0]
    tokenizer_of(ctx.out)


def test_halting_reaches_the_user_and_skipping_goes_on_from_there(
    images: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(3, monkeypatch)
    ctx = context_of(tmp_path, "quantize")
    with pytest.raises(NonFiniteError, match=r"step 3: not finite: .*l2.*samples of the batch: train-"):
        quantize.run(quantize_config(on_nonfinite="halt"), {"images": images}, ctx)
    outcome = quantize.run(quantize_config(), {"images": images}, ctx)
    assert outcome.properties["resumed_from"] == 2
    (row,) = [json.loads(line) for line in Path(ctx.path("nonfinite.jsonl")).read_text().splitlines()]
    assert row["step"] == 3
