"""Dagster's history: what keeps it from being opened is one line with a remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster
import pytest
from sqlalchemy.exc import OperationalError

from pipelines.orchestration import assets, history
from vim_core.config import PipelineConfig, RunConfig
from vim_core.errors import ConfigError, StorageError


def config(root: Path) -> PipelineConfig:
    return PipelineConfig(preset="größe 日本?", run=RunConfig(root=str(root)))


def test_a_preset_of_any_name_has_one_that_dagster_takes() -> None:
    dagster.AssetSpec("ingest", group_name=assets.job_name(config(Path("x"))))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OperationalError("", {}, Exception("full"))])
def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setattr(dagster.DagsterInstance, "from_ref", fail)
    with pytest.raises(
        StorageError, match=rf"^{tmp_path}/dagster: .*cannot be written \(.*(full|space).*; free some space"
    ):
        history.instance(config(tmp_path))


def test_a_folder_that_no_database_can_lie_in_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with pytest.raises(
        ConfigError, match=r"^run\.root=.*: Dagster's history cannot lie in a folder with \? in.*rename"
    ):
        history.dagster_home(config(tmp_path / "a?b"))
    assert not (tmp_path / "a?b").exists()
