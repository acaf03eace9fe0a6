"""A manifest is there whole or not at all, read strictly, and its files can be checked."""

from __future__ import annotations

import dataclasses
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import store
from components.contract.api import Artifact, FileEntry, InputRecord, Manifest
from vim_core.errors import DataError, StorageError
from vim_core.storage import io

FP = "0123456789abcdef0123"


def manifest(attempt: str = "one", **changes: Any) -> Manifest:
    entry = FileEntry("codes/train.parquet", f"data-{attempt}/codes/train.parquet", 3, "ab", rows=7)
    base = Manifest(
        component="tokenize",
        version=2,
        fingerprint=FP,
        digest="d" * 64,
        config={"views": 2, "augment": {"flip": 0.5}},
        inputs={"images": InputRecord("ingest", "f" * 20, "e" * 64)},
        files=[entry],
        metrics={"tokens": 64.0},
        properties={"grid": [4, 4]},
        protocols={},
        numeric={"device": "cpu"},
        seconds=1.5,
        attempt=attempt,
        created="2026-11-22T06:00:00.000001+00:00",
    )
    return dataclasses.replace(base, **changes)


def test_no_manifest_no_artifact(root: str) -> None:
    io.write_bytes(
        io.join(store.folder(root, "tokenize", FP), "data-one/codes.parquet"), b"finished, but not committed"
    )
    assert store.load(root, "tokenize", FP) is None


def test_what_was_committed_is_what_is_loaded(anywhere: str) -> None:
    artifact, won = store.commit(anywhere, manifest())
    loaded = store.load(anywhere, "tokenize", FP)
    assert won
    assert loaded == artifact
    assert loaded == Artifact(f"{anywhere}/tokenize/{FP}", manifest())
    assert loaded.uri("codes/train.parquet") == f"{anywhere}/tokenize/{FP}/data-one/codes/train.parquet"


def test_the_second_attempt_adopts_the_first(root: str) -> None:
    store.commit(root, manifest("one"))
    adopted, won = store.commit(root, manifest("two", digest="c" * 64))
    assert not won
    assert adopted.manifest == manifest("one")


def test_a_figure_that_is_no_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        store.commit(str(tmp_path), manifest(metrics={"loss": float("nan")}))
    assert store.load(str(tmp_path), "tokenize", FP) is None


def test_retiring_makes_room_and_keeps_the_files(anywhere: str) -> None:
    artifact, _ = store.commit(anywhere, manifest())
    io.write_bytes(artifact.uri("codes/train.parquet"), b"abc")
    store.retire(anywhere, artifact)
    assert store.load(anywhere, "tokenize", FP) is None
    assert io.read_bytes(artifact.uri("codes/train.parquet")) == b"abc"
    aside = io.join(artifact.folder, "manifest-2026-11-22T060000.000001+0000.json")
    assert store.parse(io.read_bytes(aside), aside) == artifact.manifest
    assert store.commit(anywhere, manifest("two"))[1]


def put(value: Any, *keys: Any) -> Callable[[dict[str, Any]], None]:
    def change(tree: Any) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(1, "files", 0, "mode"), r"files\[0\].mode: unknown key"),
        (lambda tree: tree["inputs"]["images"].pop("digest"), "missing inputs.images.digest"),
        (put("2", "version"), "version='2'"),
        (put("many", "metrics", "tokens"), "metrics.tokens='many'"),
        (put(2, "schema"), "schema=2"),
        (put("../../etc/passwd", "files", 0, "path"), "leaves"),
        (put("/etc/passwd", "files", 0, "path"), "leaves"),
        (put("prior", "component"), "belongs to prior"),
        (put("9" * 20, "fingerprint"), "belongs to tokenize/9"),
        ("{", r"manifest\.json"),
        ("null", r"manifest\.json"),
    ],
)
def test_loading_is_strict(tmp_path: Path, change: Callable[[dict[str, Any]], None] | str, message: str) -> None:
    """A damaged manifest is an error, too, and not a missing one."""
    tree = json.loads(store.dump(manifest()))
    if not isinstance(change, str):
        change(tree)
    path = tmp_path / "tokenize" / FP / "manifest.json"
    path.parent.mkdir(parents=True)
    path.write_text(change if isinstance(change, str) else json.dumps(tree))
    with pytest.raises(DataError, match=message) as caught:
        store.load(str(tmp_path), "tokenize", FP)
    assert str(path) in str(caught.value)


def test_files_are_hashed_under_their_logical_names(root: str) -> None:
    out = io.join(root, "tokenize", FP, "data-one")
    io.write_bytes(io.join(out, "b.bin"), b"abc")
    io.write_bytes(io.join(out, "deep/a.bin"), b"")
    io.write_bytes(io.join(out, "deep/.a.bin.half"), b"what a killed worker left")
    entries = store.files_in(out, "data-one", {"b.bin": 4})
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert entries == [
        FileEntry("b.bin", "data-one/b.bin", 3, abc, 4),
        FileEntry("deep/a.bin", "data-one/deep/a.bin", 0, empty, None),
    ]


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_verify_finds_damage(root: str, damage: str) -> None:
    out = io.join(root, "tokenize", FP, "data-one")
    io.write_bytes(io.join(out, "a.bin"), b"abc")
    io.write_bytes(io.join(out, "b.bin"), b"def")
    artifact, _ = store.commit(root, manifest(files=store.files_in(out, "data-one", {})))
    store.verify(artifact)
    if damage == "missing":
        io.remove_tree(artifact.uri("b.bin"))
    else:
        io.write_bytes(artifact.uri("b.bin"), b"deg")
    with pytest.raises(DataError, match=r"b\.bin.*vimctl run tokenize --force"):
        store.verify(artifact)


def test_a_root_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    root = str(tmp_path / "file")
    for act in (lambda: store.load(root, "tokenize", FP), lambda: store.commit(root, manifest())):
        with pytest.raises(StorageError, match="VIM_ROOT") as caught:
            act()
        assert str(caught.value).startswith(f"{root}: ")
        assert "\n" not in str(caught.value)


def wrapped(error: Exception) -> Exception:
    """As an engine would raise it: another type, the cause behind it."""
    try:
        raise RuntimeError("stage 'write' failed") from error
    except RuntimeError as outer:
        return outer


def test_a_full_disk_is_recognised_through_wrappers() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    text_only = RuntimeError("worker said: OSError: [Errno 28] No space left on device")
    for error in (full, wrapped(full), text_only):
        found = store.storage_error(error, "/data")
        assert found is not None
        assert "disk is full" in str(found)
    assert store.storage_error(ValueError("bad image"), "/data") is None


def test_causes_that_go_in_a_circle_have_an_end() -> None:
    inner, outer = ValueError("inner"), ValueError("outer")
    inner.__cause__, outer.__cause__ = outer, inner
    assert store.storage_error(outer, "/data") is None


def test_only_a_refusal_inside_the_root_is_the_roots_fault() -> None:
    assert store.storage_error(PermissionError(errno.EACCES, "denied", "/data/x"), "/data") is not None
    assert store.storage_error(PermissionError(errno.EACCES, "denied", "/pictures/x"), "/data") is None
