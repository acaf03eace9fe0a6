"""A root that was moved or copied keeps its pictures, and gets new ones where it lies now."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.tracking.link import Link, artifact_location, tracking_uri
from components.tracking.relocate import relocate
from vim_core.config import RunConfig
from vim_core.errors import ConfigError


def test_a_copied_root_writes_to_itself(empty_database: Path, tmp_path: Path) -> None:
    old, new, picture = tmp_path / "a b#c", tmp_path / "ü" / "moved", tmp_path / "picture.png"
    picture.write_bytes(b"png")
    for root in (old, new.parent):
        root.mkdir()
    shutil.copy(empty_database, old / "mlflow.db")

    def client(root: Path) -> Link:
        return Link(tracking_uri(RunConfig(root=str(root))) or "")

    location = artifact_location(RunConfig(root=str(old)))
    experiment = client(old).call(lambda made: made.create_experiment("digits", artifact_location=location))
    run = (
        client(old).call(lambda made: made.create_run(experiment, tags={"vim.artifact": f"{old}/prior/1"})).info.run_id
    )
    # MLflow keeps in mind where a run of this process writes.
    one = old / "mlartifacts" / run / "artifacts" / "one"
    one.mkdir(parents=True)
    shutil.copy(picture, one)
    shutil.copytree(old, new)
    client(new).call(lambda made: made.log_artifact(run, str(picture), "two"))
    found = client(new).call(lambda made: made.get_run(run))
    assert found.data.tags["vim.artifact"] == f"{new}/prior/1"
    assert found.info.artifact_uri == f"{new.as_uri()}/mlartifacts/{run}/artifacts"
    listed = client(new).call(lambda made: [entry.path for entry in made.list_artifacts(run)])
    assert sorted(listed) == ["one", "two"]
    default = client(new).call(lambda made: made.get_experiment("0"))
    assert default.artifact_location == artifact_location(RunConfig(root=str(new))), "not the first current folder's"
    assert not list(old.rglob("two")), "nothing goes to the old place"
    assert client(old).call(lambda made: made.get_run(run)).data.tags["vim.artifact"] == f"{old}/prior/1"


def test_a_database_of_the_users_own_is_left_alone(empty_database: Path, tmp_path: Path) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    before = (tmp_path / "mlflow.db").read_bytes()
    relocate(tmp_path / "mlflow.db")
    assert (tmp_path / "mlflow.db").read_bytes() == before
    relocate(tmp_path / "new.db")


@pytest.mark.parametrize("name", ["a?b", "a%20b"])
def test_a_folder_that_no_database_can_lie_in_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^run\.root=.*: MLflow's database cannot lie .* with (\?|%20) in its path; rename"
    ):
        tracking_uri(RunConfig(root=str(tmp_path / name)))
    assert tracking_uri(RunConfig(root=str(tmp_path / name), tracking_uri="off")) is None
    assert tracking_uri(RunConfig(root=str(tmp_path / "100%"))) == f"sqlite:///{tmp_path}/100%/mlflow.db"
