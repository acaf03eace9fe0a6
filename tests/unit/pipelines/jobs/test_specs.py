"""Specs: ids that follow from the work and from nothing else, strict reading, paths that stay below the root."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import prior
from components.contract import settings
from pipelines.jobs import specs
from pipelines.jobs.api import JobSpec
from tests.support.common import CONF
from vim_core.errors import ConfigError, DataError


@functools.cache
def spec(*overrides: str) -> JobSpec:
    config = settings.load(str(CONF / "smoke.yaml"), ["run.root=/r", *overrides])
    return JobSpec("run", "smoke", settings.to_yaml(config))


def test_the_id_follows_from_the_spec_the_versions_and_settings_that_change_a_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes: list[dict[str, Any]] = [
        {"target": "prior"}, {"start": "prior"}, {"force": True}, {"only": True},
        {"command": "sweep", "sweep": "grid: {}"},
    ]  # fmt: skip
    variants = [spec(), *(dataclasses.replace(spec(), **change) for change in changes)]
    variants += [spec(override) for override in ("prior.steps=61", "run.root=/other", "components=[ingest]")]
    ids = {specs.base_id(each) for each in variants}
    monkeypatch.setattr(prior, "VERSION", prior.VERSION + 1)
    assert len({*ids, specs.base_id(spec())}) == len(variants) + 1


def test_where_it_runs_does_not_change_the_id() -> None:
    moved = spec("run.workers=4", "run.threads=1", "prior.checkpoint_every=7", "run.device=cpu")
    moved = dataclasses.replace(moved, places={"prior": {"workers": 2}}, cluster="far")
    assert specs.base_id(moved) == specs.base_id(spec())


@given(st.text(max_size=60), st.integers(1, 10**6))
def test_every_id_is_one_that_kubernetes_and_paths_take(preset: str, attempt: int) -> None:
    base = f"vim-{specs.preset_label(preset)}-0123456789ab"
    name = f"{base}-a{attempt}"
    assert specs.JOB_ID.fullmatch(name)
    assert len(name) <= 47
    assert specs.attempts([name, "vim-else-ba9876543210-a1", "../x"], base) == {attempt: name}
    assert specs.job_id_of(specs.uri("/r", name)) == name


SMOKE = spec()


@pytest.mark.parametrize(
    "name", ["../vim-x-0123456789ab-a1", "vim-x-0123456789ab-a0", "x", "", "vim-x-0123456789ab-a1/"]
)
def test_ids_from_outside_do_not_leave_the_folder(name: str) -> None:
    with pytest.raises(DataError, match="not the id of a job"):
        specs.uri("/r", name)
    with pytest.raises(DataError, match="not the address of a job's spec"):
        specs.job_id_of(f"/r/submissions/{name}/other.json")


def test_a_spec_is_stored_once_and_read_back(tmp_path: Path) -> None:
    root, name = str(tmp_path), f"{specs.base_id(SMOKE)}-a1"
    first = dataclasses.replace(SMOKE, places={"prior": {"workers": 2}}, force=True)
    assert specs.write(root, name, first)
    assert specs.write(root, name, first), "the same again is no other one"
    assert not specs.write(root, name, SMOKE)
    assert specs.read(specs.uri(root, name)) == first
    assert specs.list_jobs(root) == [name]
    assert specs.config_of(first).run.root == "/r"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"extra": 1}, "extra: unknown key"),
        ({"force": "yes"}, "force='yes'"),
        ({"places": []}, "places="),
        ({"command": "rm"}, "command='rm'"),
    ],
)
def test_damaged_specs_are_named(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({**dataclasses.asdict(SMOKE), **change}))
    with pytest.raises(DataError, match=named):
        specs.read(str(path))
    path.write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        specs.read(str(path))
    with pytest.raises(DataError, match="is not there"):
        specs.read(str(tmp_path / "none.json"))


@pytest.mark.parametrize("text", ["priors: {}", "preset: x", "[a"])
def test_settings_of_another_version_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="job of smoke"):
        specs.config_of(dataclasses.replace(SMOKE, settings=text))
