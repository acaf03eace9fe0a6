"""Profiles of clusters: those that ship load, mistakes are named, places change `run` alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.jobs import profile
from vim_core.config import RunConfig
from vim_core.errors import ConfigError


def written(folder: Path, text: str) -> str:
    """A profile's file with this text."""
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", profile.names())
def test_shipped_profiles_load_and_place_every_component(name: str) -> None:
    cluster = profile.load(name)
    assert cluster.name == name
    for component in cluster.components:
        cluster.run_settings(RunConfig(), component)


def test_a_component_gets_its_own_place_above_the_common_one(tmp_path: Path) -> None:
    text = "root: gs://b/vim\nenv: {N: 04}\nrun: {workers: 2, device: cpu}\ncomponents:\n  prior: {workers: 4}\n"
    cluster = profile.load(written(tmp_path, text))
    assert cluster.env == {"N": "04"}
    common, prior = cluster.run_settings(RunConfig(threads=3)), cluster.run_settings(RunConfig(threads=3), "prior")
    assert (common.root, common.workers, common.threads, common.device) == ("gs://b/vim", 2, 3, "cpu")
    assert (prior.root, prior.workers, prior.threads, prior.device) == ("gs://b/vim", 4, 3, "cpu")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("kind: slurm", "kind='slurm'"),
        ("adress: http://h:1", "adress"),
        ("run: {worker: 2}", "did you mean workers?"),
        ("run: {root: /x}", "run.root"),
        ("run: {device: tpu}", "run.device='tpu'"),
        ("components: {priors: {workers: 2}}", "did you mean prior?"),
        ("components: {prior: {workers: 0}}", "components.prior.workers=0"),
        ("run: {workers: two}", "run.workers='two': expected int"),
        ("root: ${nowhere}", "root: Interpolation key 'nowhere' not found"),
        ("kubernetes: {image: a, quota: b}", "quota"),
        ("retries: -1", "retries=-1"),
        ("[a", "not valid YAML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=r"mine\.yaml") as caught:
        profile.load(written(tmp_path, text))
    assert named in str(caught.value)


def test_an_unknown_name_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean gke-v4"):
        profile.load("gke-v5")
    with pytest.raises(ConfigError, match="no such file"):
        profile.load(str(tmp_path / "none.yaml"))
