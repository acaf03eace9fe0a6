"""One component to one artifact: reuse, digests, lineage, force, failures, kills, two at once, old artifacts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import execute, lease, store
from components.artifacts.execute import Result
from components.contract import code, registry, settings
from components.contract.api import Artifact, Context, Manifest, Outcome
from tests.support.common import CONF, REPOSITORY, SilentProgress
from tests.support.fakes import Act, Fake, files_below, reporting, run
from vim_core.config import PipelineConfig
from vim_core.errors import DataError, StorageError
from vim_core.storage import io

OLD_ROOT = Path(__file__).with_name("old_root")
"""Manifests of the preset smoke without their files, metrics and protocols."""


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


def test_a_changed_setting_runs_that_component_and_what_its_result_reaches(
    fakes: dict[str, Fake], config: PipelineConfig
) -> None:
    """Digests, not fingerprints, reach downstream: other settings with the same codes leave the prior as it is."""
    for name in config.components:
        run(name, config)
    config.tokenize.seed = 5
    assert not run("tokenize", config).reused
    assert run("prior", config).reused
    config.tokenize.views = 2
    fakes["tokenize"].act = lambda config, inputs, ctx: Outcome(digest=f"{config.views}" * 64)
    reused = {name: run(name, config).reused for name in config.components}
    assert reused == {"ingest": True, "quantize": True, "tokenize": False, "prior": False}


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


def test_a_new_version_and_the_state_of_the_source_count(fakes: dict[str, Fake], config: PipelineConfig) -> None:
    fakes["ingest"].source = lambda config: "listing one"
    run("ingest", config)
    assert execute.find("ingest", config) is not None
    fakes["ingest"].source = lambda config: "listing two"
    assert execute.find("ingest", config) is None
    assert not run("ingest", config).reused
    fakes["ingest"].version = 2
    assert execute.find("ingest", config) is None
    assert not run("ingest", config).reused


@pytest.mark.usefixtures("fakes")
def test_a_missing_input_is_named_with_the_command(config: PipelineConfig) -> None:
    run("ingest", config)
    with pytest.raises(DataError, match=r"tokenize needs the output of quantize.*vimctl run quantize --preset test"):
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


def test_a_failure_leaves_no_artifact_but_keeps_the_work(fakes: dict[str, Fake], config: PipelineConfig) -> None:
    def fail(config: Any, inputs: Mapping[str, Artifact], ctx: Context) -> Outcome:
        io.write_bytes(io.join(ctx.work, "checkpoint"), b"step 100")
        raise ValueError("the loss is not finite")

    fakes["ingest"].act = fail
    with pytest.raises(ValueError, match="not finite"):
        run("ingest", config)
    assert execute.find("ingest", config) is None
    assert files_below(Path(config.run.root) / "ingest") == []
    kept = list(Path(config.run.root, ".work", "ingest").glob("*/checkpoint"))
    assert [path.read_bytes() for path in kept] == [b"step 100"]

    fakes["ingest"].act = lambda config, inputs, ctx: Outcome(
        properties={"resumed": io.read_bytes(io.join(ctx.work, "checkpoint")).decode()}
    )
    assert run("ingest", config).artifact.properties["resumed"] == "step 100"
    assert files_below(Path(config.run.root) / ".work") == []


def test_an_interrupt_after_the_commit_keeps_the_data(
    fakes: dict[str, Fake], config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = store.commit

    def interrupted(root: str, manifest: Any) -> Any:
        commit(root, manifest)
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("ingest", config)
    artifact = execute.find("ingest", config)
    assert artifact is not None
    store.verify(artifact)


def test_a_full_disk_is_one_line_and_commits_nothing(fakes: dict[str, Fake], config: PipelineConfig) -> None:
    def fill(config: Any, inputs: Mapping[str, Artifact], ctx: Context) -> Outcome:
        try:
            with open("/dev/full", "wb", buffering=0) as stream:
                stream.write(b"one byte too many")
        except OSError as error:
            raise RuntimeError("write stage failed") from error
        return Outcome()

    fakes["ingest"].act = fill
    with pytest.raises(StorageError, match="disk is full") as caught:
        run("ingest", config)
    assert str(caught.value).startswith(f"{config.run.root}: ")
    assert "\n" not in str(caught.value)
    assert execute.find("ingest", config) is None
    assert files_below(Path(config.run.root) / "ingest") == []


def test_an_unusable_root_is_one_line(fakes: dict[str, Fake], config: PipelineConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    config.run.root = str(tmp_path / "file" / "root")
    with pytest.raises(StorageError, match="VIM_ROOT") as caught:
        run("ingest", config)
    assert str(caught.value).startswith(f"{config.run.root}: ")
    assert fakes["ingest"].runs == 0


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (Outcome(metrics={"loss": float("inf")}), DataError),
        (Outcome(rows={"made/other.bin": 1}), ValueError),
        (Outcome(extras=frozenset({"made/out.bin"})), ValueError),
        (Outcome(properties={"path": Path("x")}), TypeError),
    ],
)
def test_an_outcome_that_cannot_be_kept_commits_nothing(
    fakes: dict[str, Fake], config: PipelineConfig, outcome: Outcome, error: type[Exception]
) -> None:
    fakes["ingest"].act = lambda config, inputs, ctx: outcome
    with pytest.raises(error):
        run("ingest", config)
    assert execute.find("ingest", config) is None
    assert files_below(Path(config.run.root) / "ingest") == []


def test_two_at_once_run_it_once(fakes: dict[str, Fake], config: PipelineConfig) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow(config: Any, inputs: Mapping[str, Artifact], ctx: Context) -> Outcome:
        began.set()
        assert go_on.wait(60)
        return Outcome()

    fakes["ingest"].act = slow
    results: list[Result] = []
    progress = SilentProgress()
    first = threading.Thread(target=lambda: results.append(run("ingest", config)))
    first.start()
    assert began.wait(60)
    second = threading.Thread(target=lambda: results.append(execute.execute("ingest", config, reporting(progress))))
    second.start()
    while not progress.notes:
        second.join(0.01)
    go_on.set()
    first.join(60)
    second.join(60)
    assert fakes["ingest"].runs == 1
    assert sorted(result.reused for result in results) == [False, True]
    assert results[0].artifact == results[1].artifact


def test_the_loser_of_a_race_adopts_the_winner(fakes: dict[str, Fake], config: PipelineConfig) -> None:
    """Even where two attempts run at once (a lease given up for dead), there is one artifact, with its own files."""
    winner: list[Artifact] = []

    def overtaken(settings: Any, inputs: Mapping[str, Artifact], ctx: Context) -> Outcome:
        fakes["ingest"].act = None
        out = io.join(config.run.root, "ingest", ctx.fingerprint, "data-rival")
        io.write_bytes(io.join(out, "made/out.bin"), b"the rival's")
        files = store.files_in(out, "data-rival", {})
        manifest = rival(ctx.fingerprint, files)
        winner.append(store.commit(config.run.root, manifest)[0])
        return Outcome()

    fakes["ingest"].act = overtaken
    result = run("ingest", config)
    assert result.reused
    assert result.artifact == winner[0] == execute.find("ingest", config)
    store.verify(result.artifact)
    assert len(files_below(result.artifact.folder)) == 2


def rival(fingerprint: str, files: list[Any]) -> Any:
    return Manifest("ingest", 1, fingerprint, "r" * 64, {}, {}, files, {}, {}, {}, {}, 1.0, "rival", "2026-11-22")


def test_an_attempt_whose_lease_was_lost_does_not_commit(fakes: dict[str, Fake], config: PipelineConfig) -> None:
    def slept(settings: Any, inputs: Mapping[str, Artifact], ctx: Context) -> Outcome:
        leases = Path(config.run.root, ".leases", "ingest", ctx.fingerprint)
        (leases / "lease-000002.json").write_bytes((leases / "lease-000001.json").read_bytes())
        return Outcome()

    fakes["ingest"].act = slept
    with pytest.raises(StorageError, match="taken over"):
        run("ingest", config)
    assert execute.find("ingest", config) is None


KILLED = """
import os, signal, sys
from tests.support import fakes as here
from components.contract import registry
from components.artifacts.execute import execute
from vim_core.storage import io
from vim_core.config import PipelineConfig, RunConfig

def act(config, inputs, ctx):
    io.write_bytes(io.join(ctx.work, "checkpoint"), b"step 100")
    os.kill(os.getpid(), signal.SIGKILL)

registry.component = {"ingest": here.Fake(act=act)}.__getitem__
execute("ingest", PipelineConfig(components=["ingest"], run=RunConfig(root=sys.argv[1])), here.reporting())
"""


def test_after_a_kill_the_next_attempt_takes_over_and_tidies_up(fakes: dict[str, Fake], config: PipelineConfig) -> None:
    root = config.run.root
    killed = subprocess.run([sys.executable, "-c", KILLED, root], cwd=REPOSITORY, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert execute.find("ingest", config) is None
    orphan = files_below(Path(root, "ingest"))
    assert len(orphan) == 1

    fakes["ingest"].act = lambda config, inputs, ctx: Outcome(
        properties={"resumed": io.read_bytes(io.join(ctx.work, "checkpoint")).decode()}
    )
    progress = SilentProgress()
    result = execute.execute("ingest", config, reporting(progress))
    assert not result.reused
    own = code.current()
    assert result.artifact.properties == {"resumed": "step 100", "code": f"{own.version} {own.digest}"}
    assert len(progress.notes) == 1
    left = files_below(Path(root, "ingest"))
    assert len(left) == 2
    assert orphan[0] not in left


def test_every_artifact_of_the_smoke_preset_is_found() -> None:
    config = settings.load("smoke", [f"run.root={OLD_ROOT}"], folder=CONF)
    assert set(config.components) == set(registry.NAMES)
    for name in config.components:
        (manifest,) = (OLD_ROOT / name).glob("*/manifest.json")
        request = execute.prepare(name, config)
        assert request.settings == json.loads(manifest.read_text())["config"]
        assert request.fingerprint == manifest.parent.name
        assert request.stored() is not None
