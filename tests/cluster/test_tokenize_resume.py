"""Tokenize under kill -9 and in two runs at once: finished shards stay, the rest is done, the bytes are the same."""

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


@pytest.fixture(scope="module")
def inputs(smoke_run: SmokeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with images in more shards, and the tokenizer of the smoke run, which saw the same images."""
    root = branched(smoke_run, tmp_path_factory.mktemp("inputs") / "root", ["quantize"])
    vimctl("run", "ingest", *ARGUMENTS, root=root)
    return root


def branch(inputs: Path, target: Path) -> Path:
    for component in ("ingest", "quantize"):
        shutil.copytree(inputs / component, target / component)
    return target


@pytest.fixture(scope="module")
def expected(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one run makes in one go, in one process."""
    root = branch(inputs, tmp_path_factory.mktemp("whole") / "root")
    vimctl("run", "tokenize", *ARGUMENTS, root=root)
    return files(root)


def test_a_killed_run_keeps_its_shards_and_does_the_rest(
    inputs: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    root = branch(inputs, tmp_path / "root")
    # Two processes have half the threads each: with two threads in all, each shard is made by one, as expected.
    more = ["run.beam_processes=2", "run.threads=2"]
    with started(root, "run", "tokenize", *ARGUMENTS, *more) as process:
        process.wait_for(lambda: len(shards(root)) >= 3)
        process.kill()
    assert manifests(root, "tokenize") == []
    before = shards(root)
    assert 3 <= len(before) < 16
    with started(root, "run", "tokenize", *ARGUMENTS, *more) as process:
        process.wait_for(lambda: len(shards(root)) > len(before))
        assert before.items() <= shards(root).items(), "finished shards are neither removed nor made again"
        assert process.process.wait(timeout=600) == 0, process.text[-3000:]
    assert files(root) == expected


def test_two_runs_at_once_make_one_artifact(inputs: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    root = branch(inputs, tmp_path / "root")
    arguments = ["run", "tokenize", *ARGUMENTS]
    with started(root, *arguments) as first, started(root, *arguments) as second:
        codes = [each.process.wait(timeout=600) for each in (first, second)]
        assert codes == [0, 0], "\n\n".join(each.text[-3000:] for each in (first, second))
    assert len(list(root.glob("tokenize/*/data-*"))) == 1
    assert files(root) == expected
