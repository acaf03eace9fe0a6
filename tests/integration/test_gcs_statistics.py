"""`statistics` and `score` in a bucket: the bytes of a local root, shards that merge, nothing measured twice."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import execute, store
from components.artifacts.execute import ArtifactCache
from components.contract.api import Artifact
from components.statistics import shards
from tests.support.fakes import reporting
from tests.support.synthetic import everything
from vim_core.config import PipelineConfig, RunConfig, ScoreConfig, StatisticsConfig
from vim_core.storage import io

COMPONENTS = ["ingest", "classify", "statistics", "quantize", "tokenize", "reconstruct", "prior", "sample", "score"]


def config_of(root: str, cache: Path, **changes: Any) -> PipelineConfig:
    return PipelineConfig(
        preset="test",
        components=COMPONENTS,
        run=RunConfig(root=root, threads=1, device="cpu", code_cache=str(cache)),
        statistics=StatisticsConfig(batch=4, score_splits=2, features=8, export=True, **changes),
        score=ScoreConfig(usage_batch=4, batch=5),
    )


def sent(made: Artifact, bucket: str) -> Artifact:
    """The same artifact in a bucket."""
    folder = f"{bucket}/{made.manifest.component}"
    for entry in made.manifest.files:
        io.write_bytes(io.join(folder, entry.path), io.read_bytes(made.uri(entry.name)))
    return Artifact(folder, made.manifest)


def run(name: str, config: PipelineConfig, known: ArtifactCache) -> execute.Result:
    return execute.execute(name, config, reporting(), cache=known)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """Inputs of both components on a local disk, without the statistics, which they make."""
    found = everything(tmp_path_factory.mktemp("given"))
    return {name: made for name, made in found.items() if name != "statistics"}


@pytest.fixture(scope="module")
def both(given: dict[str, Artifact], gcs: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ArtifactCache]:
    """Both components from local inputs to a local root, and from a bucket to a bucket."""
    folder = tmp_path_factory.mktemp("both")
    known = {"local": dict(given), "gs": {name: sent(made, f"{gcs}/given") for name, made in given.items()}}
    roots = {"local": str(folder / "root"), "gs": f"{gcs}/judged"}
    for place, root in roots.items():
        for name in ("statistics", "score"):
            before = dict(known[place])
            made = run(name, config_of(root, folder / "cache"), before).artifact
            known[place][name] = made
    return known


@pytest.mark.parametrize("name", ["statistics", "score"])
def test_manifest_and_files_are_those_of_a_local_root(both: dict[str, ArtifactCache], name: str) -> None:
    local, remote = both["local"][name], both["gs"][name]
    assert remote.folder.startswith("gs://")
    store.verify(remote)
    for field in ("fingerprint", "digest", "config", "inputs", "metrics", "properties", "protocols"):
        assert getattr(remote.manifest, field) == getattr(local.manifest, field), field
    assert [entry.name for entry in remote.manifest.files] == [entry.name for entry in local.manifest.files]
    for entry in remote.manifest.files:
        assert io.read_bytes(remote.uri(entry.name)) == io.read_bytes(local.uri(entry.name)), entry.name


def test_a_killed_run_leaves_its_shards_in_the_bucket_and_the_next_does_the_rest(
    both: dict[str, ArtifactCache], gcs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, known = config_of(f"{gcs}/killed", tmp_path), {**both["gs"]}
    known.pop("statistics")
    pictures, seen = shards.image_batches, list[int]()

    def limited(count: int, shard: shards.StatisticsShard) -> Any:
        if len(seen) == count:
            raise RuntimeError("killed")
        seen.append(shard.index)
        return pictures(shard)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "image_batches", partial(limited, 1))
        with pytest.raises(RuntimeError, match="killed"):
            run("statistics", config, dict(known))
    monkeypatch.setattr(shards, "image_batches", partial(limited, 2))
    again = run("statistics", config, dict(known)).artifact
    assert sorted(seen) == [0, 1]
    assert again.digest == both["local"]["statistics"].digest
    assert run("statistics", config, dict(known)).reused


def test_a_network_from_the_bucket_asks_for_no_classifier(
    both: dict[str, ArtifactCache], gcs: str, tmp_path: Path
) -> None:
    from safetensors.torch import save
    from torchvision.models import squeezenet1_1

    weights = save(squeezenet1_1().state_dict())
    io.write_bytes(f"{gcs}/squeezenet.safetensors", weights)
    named = {"network": "torchvision:squeezenet1_1", "weights": f"{gcs}/squeezenet.safetensors"}
    config = config_of(f"{gcs}/judged", tmp_path, **named, weights_sha256=hashlib.sha256(weights).hexdigest())
    known = {name: made for name, made in both["gs"].items() if name != "statistics"}
    first = run("statistics", config, dict(known))
    assert set(first.artifact.manifest.inputs) == {"images"}
    trained = replace(known["classify"].manifest, digest="another" + "0" * 57)
    again = run("statistics", config, known | {"classify": Artifact(known["classify"].folder, trained)})
    assert (first.reused, again.reused) == (False, True)
    own = config_of(f"{gcs}/judged", tmp_path)
    assert execute.find("statistics", own, known | {"classify": Artifact("gs://none", trained)}) is None
    assert execute.find("statistics", own, dict(known)) == both["gs"]["statistics"]
