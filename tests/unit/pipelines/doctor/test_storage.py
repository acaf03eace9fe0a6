"""What may be done at the root, told act by act."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.doctor import storage
from pipelines.doctor.checks import FAIL, OK, Target
from pipelines.jobs.profile import Cluster
from tests.support.common import PRIVATE
from tests.support.gcs import Fault, failing
from vim_core.config import PipelineConfig, RunConfig
from vim_core.errors import StorageError
from vim_core.storage import io


def target(root: str, cluster: Cluster | None = None) -> Target:
    return Target(PipelineConfig("fake", ["ingest"], RunConfig(root=root, tracking_uri="off")), cluster)


def test_a_root_that_can_be_used(anywhere: str) -> None:
    (found,) = storage.check_root(target(anywhere))
    assert found.status == OK
    assert not io.exists(anywhere), "no trace is left"


def test_a_folder_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "artifact").touch()
    storage.check_root(target(str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "root").touch()
    found = storage.check_root(target(str(tmp_path / "root")))
    assert found[0].status == FAIL
    assert "VIM_ROOT" in found[0].advice


@pytest.mark.parametrize(("act", "name"), [("read", "read_bytes"), ("list", "list_entries")])
def test_each_refused_act_is_named_with_its_permission(
    gcs: str, monkeypatch: pytest.MonkeyPatch, act: str, name: str
) -> None:
    def denied(*arguments: Any) -> None:
        raise StorageError("denied")

    monkeypatch.setattr(io, name, denied)
    (found,) = storage.check_root(target(f"{gcs}/doctor-{act}"))
    assert (found.status, found.check) == (FAIL, f"root: {act}")
    assert storage.PERMISSIONS[act] in found.advice
    assert "--role=roles/storage.objectUser" in found.advice


def test_a_store_without_exclusive_creation_is_refused(gcs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io, "create_exclusive", lambda uri, data: True)
    found = storage.check_root(target(f"{gcs}/doctor-twice"))
    assert "created twice" in found[0].found


def test_a_bucket_that_wants_a_login(gcs: str) -> None:
    found = {each.check: each for each in storage.check_root(target(f"gs://{PRIVATE}/vim"))}
    assert found["root: create"].status == FAIL
    assert "Anonymous caller" in found["root: create"].found
    assert f"add-iam-policy-binding gs://{PRIVATE}" in found["root: create"].advice


def test_a_folder_of_this_machine_is_no_root_for_a_cluster(tmp_path: Path) -> None:
    found = storage.check_root(target(str(tmp_path), Cluster(name="pod")))
    assert [each.status for each in found] == [OK, FAIL]
    assert "which pod cannot reach" in found[1].found
    assert len(storage.check_root(target(str(tmp_path), Cluster(name="pod", root=str(tmp_path))))) == 1


def test_what_an_account_may_not_do_is_told_by_the_store_itself(gcs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    with failing(os.environ["STORAGE_EMULATOR_HOST"]) as proxy:
        import fsspec

        bucket = gcs.removeprefix("gs://")
        # A file system of its own: those that are known talk to the emulator.
        options = {"token": "anon", "endpoint_url": proxy.address, "skip_instance_cache": True}
        remote = fsspec.filesystem("gs", **options)
        monkeypatch.setattr(io, "filesystem", lambda uri: (remote, uri.removeprefix("gs://")))
        proxy.fail(Fault(403, match="ifGenerationMatch", times=9))
        found = {each.check: each for each in storage.check_root(target(f"gs://{bucket}/refused"))}
        assert list(found) == ["root: create"]
        assert "storage.objects.create" in found["root: create"].advice
        proxy.fail(Fault(403, "DELETE", times=9))
        (kept,) = storage.check_root(target(f"gs://{bucket}/kept"))
        assert kept.check == "root: delete"
        assert "refuses this account" in kept.found
