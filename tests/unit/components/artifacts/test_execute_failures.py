"""What goes wrong while a component runs: failures, full disks, kills, two at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import execute, store
from components.artifacts.execute import Result
from components.contract.api import Artifact, Context, Outcome
from tests.support.common import SilentProgress
from tests.support.fakes import Fake, files_below, reporting, run
from vim_core.config import PipelineConfig
from vim_core.errors import DataError, StorageError
from vim_core.storage import io

REPOSITORY = Path(__file__).resolve().parents[4]


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
    assert run("ingest", config).artifact.properties == {"resumed": "step 100"}
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


@pytest.mark.parametrize("wrap", [False, True])
def test_a_full_disk_is_one_line_and_commits_nothing(
    fakes: dict[str, Fake], config: PipelineConfig, wrap: bool
) -> None:
    def fill(config: Any, inputs: Mapping[str, Artifact], ctx: Context) -> Outcome:
        try:
            with open("/dev/full", "wb", buffering=0) as stream:
                stream.write(b"one byte too many")
        except OSError as error:
            if wrap:
                raise RuntimeError("write stage failed") from error
            raise
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


def test_a_root_without_permission_is_one_line(
    fakes: dict[str, Fake], config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permission bits do not bind root, so the refusal is the file system's word for word."""

    def refused(uri: str) -> None:
        raise PermissionError(13, "Permission denied", uri)

    monkeypatch.setattr(io, "make_folder", refused)
    with pytest.raises(StorageError, match=r"Permission denied.*run\.root=") as caught:
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
    from components.contract.api import Manifest

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
    assert result.artifact.properties == {"resumed": "step 100"}
    assert len(progress.notes) == 1
    left = files_below(Path(root, "ingest"))
    assert len(left) == 2
    assert orphan[0] not in left
