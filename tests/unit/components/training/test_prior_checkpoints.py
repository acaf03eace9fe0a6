"""Checkpoints of a training as artifacts: the weights that the training would have left, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components import prior
from components.artifacts import execute
from components.artifacts.execute import Request
from components.contract import registry
from components.contract.api import Artifact, Context
from components.contract.fingerprint import result_settings
from components.training import prior_checkpoints
from tests.support import tiny_artifacts
from tests.support.common import SilentProgress, SilentTracker
from tests.support.tiny import prior_config
from vim_core.checkpoint.shard_files import SavedCheckpoint, open_checkpoint
from vim_core.config import PipelineConfig, RunConfig
from vim_core.errors import DataError
from vim_core.models.prior import load_prior
from vim_core.storage import io

TRAINING = "7" * 20


@dataclasses.dataclass(frozen=True)
class Trained:
    """A training whose work folder is still there, with the checkpoints of steps 4 and 6."""

    config: PipelineConfig
    request: Request
    files: dict[str, bytes]


@pytest.fixture
def trained(tmp_path: Path, trained_here: None, monkeypatch: pytest.MonkeyPatch) -> Trained:
    root = str(tmp_path / "root")
    tokenizer = tiny_artifacts.tokenizer(tmp_path)
    codes = tiny_artifacts.codes(tmp_path, tokenizer, {"train": np.arange(13) % 3, "test": np.arange(5) % 3})
    own = prior_config(preview=0)
    place = RunConfig(root=root, device="cpu", threads=1, code_cache=str(tmp_path / "cache"), tracking_uri="off")
    config = PipelineConfig(preset="tiny", components=list(registry.NAMES), run=place, prior=own)
    inputs = {"codes": codes, "tokenizer": tokenizer}
    request = Request("prior", registry.component("prior"), config, result_settings(own), inputs, TRAINING)
    monkeypatch.setattr(execute, "prepare", lambda name, given: request)
    out = str(tmp_path / "out")
    ctx = Context(
        "prior", TRAINING, request.work, out, place, config, SilentProgress(), SilentTracker()
    )  # fmt: skip
    prior.run(own, inputs, ctx)
    names = ("model.safetensors", "config.json")
    return Trained(config, request, {name: io.read_bytes(io.join(out, name)) for name in names})


def files(made: Artifact) -> dict[str, bytes]:
    return {entry.name: io.read_bytes(made.uri(entry.name)) for entry in made.manifest.files}


def test_the_checkpoint_of_the_last_step_is_the_trained_prior(trained: Trained) -> None:
    """Averaged weights, byte for byte: sampling cannot tell it from the finished artifact."""
    made = prior_checkpoints.make_artifact(trained.config, 6)
    assert files(made) == trained.files
    assert made.properties["checkpoint"] == {"of": TRAINING, "step": 6}
    assert made.properties["null_trained"] is True
    assert made.properties["tokenizer"] == trained.request.inputs["tokenizer"].digest
    assert made.manifest.fingerprint == prior_checkpoints.checkpoint_fingerprint(TRAINING, 6) != TRAINING
    assert {record.digest for record in made.manifest.inputs.values()} == {
        artifact.digest for artifact in trained.request.inputs.values()
    }
    load_prior(made.uri("model.safetensors"), made.uri("config.json"))


def test_an_earlier_checkpoint_has_other_weights_and_is_made_once(trained: Trained) -> None:
    made = prior_checkpoints.make_artifact(trained.config, 4)
    assert files(made)["config.json"] == trained.files["config.json"]
    assert files(made)["model.safetensors"] != trained.files["model.safetensors"]
    io.remove_tree(trained.request.work)  # as at the end of the training
    assert prior_checkpoints.make_artifact(trained.config, 4) == made
    assert prior_checkpoints.available_steps(trained.config) == [4]


def test_the_checkpoints_there_are(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prior_checkpoints.available(trained.config) == [("prior", TRAINING, 4), ("prior", TRAINING, 6)]
    assert prior_checkpoints.export_latest(trained.config) == 6

    def missing(name: str, config: PipelineConfig) -> Request:
        raise DataError("prior needs the output of tokenize, which was not made with these settings")

    monkeypatch.setattr(execute, "prepare", missing)
    assert prior_checkpoints.available(trained.config) == []


def test_one_that_the_training_removed_is_named_with_those_there_are(trained: Trained) -> None:
    with pytest.raises(DataError, match=r"checkpoint=2: .* keeps the newest prior.keep=2.*there are: 4, 6"):
        prior_checkpoints.make_artifact(trained.config, 2)
    made, reasons = prior_checkpoints.export(trained.config, [2, 4])
    assert list(made) == [4]
    assert "checkpoint=2" in reasons[2]


@pytest.mark.parametrize("gone", ["index.json", ".safetensors"])
def test_one_that_is_removed_while_it_is_read_leaves_nothing(
    trained: Trained, gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listing has it, then the training prunes it; the next newest takes its place."""
    from vim_core.tasks import prior

    def pruned(folder: str, *rest: Any) -> SavedCheckpoint:
        saved = open_checkpoint(folder, *rest)
        for name in [name for name in io.list_names(folder) if name.endswith(gone)]:
            io.remove_tree(io.join(folder, name))
        return saved if gone == ".safetensors" else open_checkpoint(folder, *rest)

    monkeypatch.setattr(prior, "open_checkpoint", pruned)
    with pytest.raises(DataError, match="checkpoint=6"):
        prior_checkpoints.make_artifact(trained.config, 6)
    assert io.find_files(io.join(trained.request.root, "prior")) == {}
    monkeypatch.undo()


def test_the_newest_is_sought_again_when_it_vanishes(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    real = prior_checkpoints.make_artifact

    def racing(config: PipelineConfig, step: int) -> Artifact:
        if step == 6:
            for family in io.list_names(trained.request.work):
                io.remove_tree(io.join(trained.request.work, family, "step-00000006"))
        return real(config, step)

    monkeypatch.setattr(prior_checkpoints, "make_artifact", racing)
    assert prior_checkpoints.export_latest(trained.config) == 4
