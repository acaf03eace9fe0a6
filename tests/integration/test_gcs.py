"""A bucket as the artifact root: trainings and the cheap components leave there what they leave on a local disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from components.artifacts import execute, store
from components.artifacts.execute import ArtifactCache, Reporting, Result
from components.contract import settings
from components.contract.api import Artifact
from tests.support.common import CONF, SilentProgress, SilentTracker, train_here
from tests.support.fakes import reporting
from tests.support.tiny import Killed
from vim_core.config import PipelineConfig
from vim_core.storage import io
from vim_core.tasks.quantizer import QuantizerTask

CHEAP = ("ingest", "quantize", "tokenize", "reconstruct")
SETTINGS = [
    "ingest.limit=90",
    "ingest.shards=2",
    "quantize.steps=8",
    "quantize.checkpoint_every=2",
    "quantize.log_every=1",
    "quantize.batch=8",
    "quantize.keep=1",
    "quantize.evaluate_every=2",
    "quantize.best=max psnr_db",
    "run.device=cpu",
    "run.threads=1",
]


def config_of(root: str, *more: str) -> PipelineConfig:
    return settings.load(str(CONF / "smoke.yaml"), [*SETTINGS, f"run.root={root}", *more])


def made(config: PipelineConfig) -> dict[str, Result]:
    """Every cheap component of the preset, from scratch or found."""
    known: ArtifactCache = {}
    return {name: execute.execute(name, config, reporting(), cache=known) for name in CHEAP}


@pytest.fixture(scope="module")
def both(gcs: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Result]]]:
    """The same settings with a local root and with one in the bucket; trainings are one worker in this process."""
    local = str(tmp_path_factory.mktemp("local") / "root")
    with pytest.MonkeyPatch.context() as patch:
        train_here(patch)
        yield {"local": made(config_of(local)), "gs": made(config_of(f"{gcs}/pipeline"))}


@pytest.mark.parametrize("name", CHEAP)
def test_manifest_and_files_are_those_of_a_local_root(both: dict[str, dict[str, Result]], name: str) -> None:
    local, remote = both["local"][name].artifact, both["gs"][name].artifact
    assert remote.folder.startswith("gs://")
    store.verify(remote)
    for field in ("fingerprint", "digest", "version", "config", "inputs", "protocols"):
        assert getattr(remote.manifest, field) == getattr(local.manifest, field), field
    assert [entry.name for entry in remote.manifest.files] == [entry.name for entry in local.manifest.files]
    for entry in remote.manifest.files:
        if not entry.name.startswith(("curves", "pictures")):
            assert io.read_bytes(remote.uri(entry.name)) == io.read_bytes(local.uri(entry.name)), entry.name


def test_what_is_finished_is_found_again(
    both: dict[str, dict[str, Result]], gcs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "_make", lambda *_: pytest.fail("made again"))
    again = made(config_of(f"{gcs}/pipeline"))
    assert all(result.reused for result in again.values())
    assert {name: r.artifact for name, r in again.items()} == {name: r.artifact for name, r in both["gs"].items()}


def test_another_count_of_images_is_another_artifact_and_force_makes_one_again(
    both: dict[str, dict[str, Result]], gcs: str
) -> None:
    before = both["gs"]["ingest"].artifact
    other = execute.execute("ingest", config_of(f"{gcs}/pipeline", "ingest.limit=40"), reporting())
    assert not other.reused
    assert other.artifact.digest != before.digest
    forced = execute.execute("ingest", config_of(f"{gcs}/pipeline"), reporting(), force=True)
    assert forced.artifact.digest == before.digest
    assert forced.artifact.manifest.attempt != before.manifest.attempt
    names = io.list_names(before.folder)
    assert f"manifest-{before.manifest.created.replace(':', '')}.json" in names
    assert "manifest.json" in names


def killed(config: PipelineConfig, step: int, known: dict[str, Artifact]) -> None:
    """Train until the process dies at `step`: nothing is tidied up after it."""
    own = QuantizerTask.step

    def dying(self: QuantizerTask, number: int, batch: Any) -> Any:
        if number == step:
            raise Killed
        return own(self, number, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QuantizerTask, "step", dying)
        with pytest.raises(Killed):
            execute.execute("quantize", config, reporting(), cache=dict(known))


def test_a_killed_training_continues_from_the_bucket_bit_for_bit(both: dict[str, dict[str, Result]], gcs: str) -> None:
    whole = both["gs"]["quantize"].artifact
    config = config_of(f"{gcs}/killed")
    known = {"ingest": both["gs"]["ingest"].artifact}
    killed(config, 5, known)
    work = f"{gcs}/killed/.work/quantize/{whole.manifest.fingerprint}"
    indices = [path for path in io.find_files(work) if path.endswith("/index.json")]
    # One is kept for its age; the best may be another one.
    assert f"{indices[-1].split('/')[0]}/step-00000004/index.json" == indices[-1]
    assert len(indices) <= 2
    # What a worker that died in the middle of its next checkpoint leaves: a shard that no index names.
    newest = f"{work}/{indices[-1].rsplit('/', 1)[0]}"
    (shard,) = [name for name in io.list_names(newest) if name.endswith(".safetensors")]
    io.write_bytes(newest.replace("step-00000004", "step-00000006") + f"/{shard}", b"half a shard")
    # It continues on another machine, which has nothing of the first one's.
    shutil.rmtree(io.scratch(work))
    tracker = SilentTracker()
    lent = Reporting(lambda name: SilentProgress(), lambda *_: nullcontext(tracker))
    result = execute.execute("quantize", config, lent, cache=dict(known))
    assert result.artifact.manifest.properties["resumed_from"] == 4
    assert result.artifact.digest == whole.digest
    assert curve(result.artifact) == curve(whole)
    assert [row["step"] for row in curve(whole)] == list(range(8))
    delivered = [row.step for row in tracker.logged if "train/loss" in row.values]
    assert delivered == list(range(8)), "also those of before the kill"
    assert tracker.pictures["reconstructions"] == io.read_bytes(result.artifact.uris("pictures/reconstructions-")[-1])


def curve(artifact: Artifact) -> list[dict[str, Any]]:
    """Every figure of every step, but those of the machine and of evaluations, which come when they are ready."""
    rows = [json.loads(line) for line in io.read_bytes(artifact.uri("curves.jsonl")).splitlines()]
    own = ({k: v for k, v in row["m"].items() if "/" not in k and not k.endswith("per_s")} for row in rows)
    return [{"step": row["step"], **figures} for row, figures in zip(rows, own, strict=True) if figures]
