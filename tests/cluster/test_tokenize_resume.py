"""Tokenize under kill -9, then two runs at once: finished shards stay, the rest is done, the bytes are the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.common import file_of, manifest, manifests, started, vimctl
from tests.support.smoke import SmokeRun, branched

pytestmark = pytest.mark.cluster

ARGUMENTS = ["--preset", "smoke", "tokenize.views=24", "ingest.shards=8", "run.threads=1", "run.tracking_uri=off"]
"""Eight shards a split, with so many views that a run can be stopped between them."""


def files(root: Path) -> dict[str, bytes]:
    """The committed code files."""
    made = manifest(root, "tokenize")
    return {each["name"]: file_of(root, made, each["name"]).read_bytes() for each in made["files"]}


def shards(root: Path) -> dict[str, tuple[int, int]]:
    """Finished shards in the work folder: which file each is, and from when."""
    found = root.glob(".work/tokenize/*/*/codes/[!.]*.parquet")
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def test_a_killed_run_keeps_its_shards_and_two_at_once_do_the_rest(smoke_run: SmokeRun, tmp_path: Path) -> None:
    # Images in more shards, and the tokenizer of the smoke run, which saw the same images.
    root = branched(smoke_run, tmp_path / "root", ["quantize"])
    vimctl("run", "ingest", *ARGUMENTS, root=root)
    whole = tmp_path / "whole"
    shutil.copytree(root, whole)
    # Two processes have half the threads each: with two threads in all, each shard is made by one, as in the whole run.
    words = ["run", "tokenize", *ARGUMENTS, "run.beam_processes=2", "run.threads=2"]
    with started(root, *words) as process:
        process.wait_for(lambda: len(shards(root)) >= 3)
        process.kill()
    assert manifests(root, "tokenize") == []
    before = shards(root)
    assert 3 <= len(before) < 16
    with started(root, *words) as first, started(root, *words) as second:
        first.wait_for(lambda: len(shards(root)) > len(before))
        assert before.items() <= shards(root).items(), "finished shards are neither removed nor made again"
        codes = [each.process.wait(timeout=600) for each in (first, second)]
        assert codes == [0, 0], "\n\n".join(each.text[-3000:] for each in (first, second))
    assert len(list(root.glob("tokenize/*/data-*"))) == 1
    vimctl("run", "tokenize", *ARGUMENTS, root=whole)
    assert files(root) == files(whole), "the bytes of one run in one go, in one process"
