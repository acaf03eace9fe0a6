"""One component to one artifact: reuse, digests, lineage, force."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import execute, lease, store
from components.contract.api import Artifact, Context, Outcome
from tests.support.fakes import Act, Fake, files_below, reporting, run
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError, DataError, StorageError
from vim_core.storage import io


def test_an_artifact_is_made_once_and_found_again(fakes: dict[str, Fake], config: PipelineConfig) -> None:
    first, second = run("ingest", config), run("ingest", config)
    assert (first.reused, second.reused) == (False, True)
    assert first.artifact == second.artifact == execute.find("ingest", config)
    assert fakes["ingest"].runs == 1
    store.verify(first.artifact)
    assert io.read_bytes(first.artifact.uri("made/out.bin")) == b"result of ingest"


def test_a_manifest_says_what_was_asked_and_what_came_out(fakes: dict[str, Fake], config: PipelineConfig) -> None:
    images = run("ingest", config).artifact
    manifest = run("quantize", config).artifact.manifest
    record = manifest.inputs["images"]
    assert (record.component, record.fingerprint, record.digest) == (
        "ingest",
        images.manifest.fingerprint,
        images.digest,
    )
    assert manifest.config["codebook"]["codes"] == config.quantize.codebook.codes
    assert "log_every" not in manifest.config
    assert (manifest.version, manifest.metrics, manifest.mlflow_run_id) == (1, {"runs": 1.0}, "run of quantize")
    assert [entry.path for entry in manifest.files] == [f"data-{manifest.attempt}/made/out.bin"]


@pytest.mark.usefixtures("fakes")
def test_the_digest_is_of_names_and_contents_not_of_the_attempt(config: PipelineConfig) -> None:
    first = run("ingest", config).artifact
    second = run("ingest", config, force=True).artifact
    assert first.manifest.attempt != second.manifest.attempt
    assert first.digest == second.digest


def test_extras_and_own_digests(fakes: dict[str, Fake], config: PipelineConfig) -> None:
    def pictured(shade: bytes, digest: str | None = None) -> Act:
        def act(config: Any, inputs: Mapping[str, Artifact], ctx: Context) -> Outcome:
            io.write_bytes(ctx.path("pictures/one.png"), shade)
            return Outcome(extras=frozenset({"pictures/one.png"}), rows={"made/out.bin": 3}, digest=digest)

        return act

    digests = []
    for act in (pictured(b"dark"), pictured(b"light"), pictured(b"light", "a" * 64)):
        fakes["ingest"].act = act
        artifact = run("ingest", config, force=True).artifact
        digests.append(artifact.digest)
        assert {entry.name: entry.rows for entry in artifact.manifest.files}["made/out.bin"] == 3
    assert digests[0] == digests[1]
    assert digests[2] == "a" * 64


def test_a_changed_setting_runs_that_component_and_what_follows(fakes: dict[str, Fake], config: PipelineConfig) -> None:
    for name in config.components:
        run(name, config)
    config.tokenize.views = 2
    fakes["tokenize"].act = lambda config, inputs, ctx: Outcome(digest=f"{config.views}" * 64)
    reused = {name: run(name, config).reused for name in config.components}
    assert reused == {"ingest": True, "quantize": True, "tokenize": False, "prior": False}


def test_an_equal_result_downstream_is_reused(fakes: dict[str, Fake], config: PipelineConfig) -> None:
    """Digests, not fingerprints, reach downstream: other settings with the same codes leave the prior as it is."""
    for name in config.components:
        run(name, config)
    config.tokenize.seed = 5
    assert not run("tokenize", config).reused
    assert run("prior", config).reused


def test_an_input_that_plays_no_part_is_neither_waited_for_nor_asked_about(
    fakes: dict[str, Fake], config: PipelineConfig
) -> None:
    fakes["prior"].inputs = {"codes": "tokenize", "tokenizer": "quantize?"}
    fakes["prior"].without = frozenset({"tokenizer"})
    for name in config.components:
        run(name, config)
    assert set(run("prior", config).artifact.manifest.inputs) == {"codes"}
    codes = run("tokenize", config).artifact.digest
    fakes["quantize"].act = lambda config, inputs, ctx: Outcome(digest="d" * 64)
    fakes["tokenize"].act = lambda config, inputs, ctx: Outcome(digest=codes)
    assert run("quantize", config, force=True).artifact.digest == "d" * 64
    run("tokenize", config)
    assert run("prior", config).reused, "only the input without a part is another"
    fakes["prior"].without = frozenset()
    assert not run("prior", config).reused


def test_a_new_version_runs_again(fakes: dict[str, Fake], config: PipelineConfig) -> None:
    run("ingest", config)
    fakes["ingest"].version = 2
    assert execute.find("ingest", config) is None
    assert not run("ingest", config).reused


def test_the_state_of_the_source_counts(fakes: dict[str, Fake], config: PipelineConfig) -> None:
    fakes["ingest"].source = lambda config: "listing one"
    run("ingest", config)
    assert execute.find("ingest", config) is not None
    fakes["ingest"].source = lambda config: "listing two"
    assert execute.find("ingest", config) is None


@pytest.mark.usefixtures("fakes")
def test_a_missing_input_is_named_with_the_command(config: PipelineConfig) -> None:
    run("ingest", config)
    with pytest.raises(DataError, match=r"tokenize needs the output of quantize.*vimctl run quantize --preset test"):
        run("tokenize", config)


@pytest.mark.usefixtures("fakes")
def test_a_component_without_its_inputs_in_the_preset_is_refused(config: PipelineConfig) -> None:
    config.components = ["ingest", "tokenize"]
    with pytest.raises(ConfigError, match="tokenize needs quantize"):
        run("tokenize", config)


def test_finding_never_runs(fakes: dict[str, Fake], config: PipelineConfig) -> None:
    assert execute.find("prior", config) is None
    assert not Path(config.run.root).exists()
    assert [fake.runs for fake in fakes.values()] == [0, 0, 0, 0]


def test_the_source_is_looked_at_once_a_search(fakes: dict[str, Fake], config: PipelineConfig) -> None:
    looks: list[int] = []

    def look(config: Any) -> str:
        looks.append(1)
        return "listing"

    fakes["ingest"].source = look
    execute.find("prior", config)
    assert len(looks) == 1
    for name in config.components:
        run(name, config)
    looks.clear()
    known: execute.ArtifactCache = {}
    for name in config.components:
        execute.execute(name, config, reporting(), cache=known)
    assert len(looks) == 1


def test_known_artifacts_do_not_outlive_what_they_came_from(fakes: dict[str, Fake], config: PipelineConfig) -> None:
    for name in config.components:
        run(name, config)
    known: execute.ArtifactCache = {}
    old = execute.find("prior", config, known)
    fakes["quantize"].act = lambda config, inputs, ctx: Outcome(digest="9" * 64)
    execute.execute("quantize", config, reporting(), force=True, cache=known)
    assert old is not None
    assert execute.find("prior", config, known) is None


def test_force_runs_again_and_keeps_the_old_until_then(fakes: dict[str, Fake], config: PipelineConfig) -> None:
    first = run("ingest", config).artifact
    seen: list[Artifact | None] = []

    def act(settings: Any, inputs: Mapping[str, Artifact], ctx: Context) -> Outcome:
        seen.append(execute.find("ingest", config))
        return Outcome(digest="2" * 64)

    fakes["ingest"].act = act
    second = run("ingest", config, force=True)
    assert not second.reused
    assert seen == [first]
    assert execute.find("ingest", config) == second.artifact
    names = files_below(first.folder)
    assert len([name for name in names if name.startswith("manifest-")]) == 1
    store.verify(first)


def test_a_relative_root_becomes_absolute(
    fakes: dict[str, Fake], config: PipelineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers may run in another folder than the driver."""
    monkeypatch.chdir(tmp_path)
    config.run.root = "artifacts"
    artifact = run("ingest", config).artifact
    assert os.path.isabs(artifact.folder)
    assert artifact.folder.startswith(str(tmp_path / "artifacts"))


def test_a_remote_root_works_as_a_local_one(fakes: dict[str, Fake], config: PipelineConfig, remote: str) -> None:
    config.run.root = remote
    first = run("ingest", config)
    assert run("ingest", config).reused
    assert not run("ingest", config, force=True).reused
    store.verify(first.artifact)
    assert lease._newest(io.join(remote, ".leases", "ingest", first.artifact.manifest.fingerprint))


def test_a_root_in_a_bucket_that_is_not_there_is_named_before_any_work(
    fakes: dict[str, Fake], config: PipelineConfig, gcs: str
) -> None:
    config.run.root = "gs://nowhere/root"
    with pytest.raises(StorageError, match=r"there is no bucket gs://nowhere, .*; make it \(`gcloud storage"):
        run("ingest", config)
    assert fakes["ingest"].runs == 0
