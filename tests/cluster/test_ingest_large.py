"""All 30,000 images of Tiny ImageNet through `ingest`, `tokenize` and `statistics`: none is lost, and memory does not
grow with their number."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.support.common import REPOSITORY, environment, running
from tests.support.layouts import tar

pytestmark = pytest.mark.cluster

ARCHIVES = ("tiny_imagenet_train_100_per_class.tar.gz", "tiny_imagenet_val.tar.gz")
SHARD = 1000

Roots = dict[str, tuple[Path, dict[str, Any]]]
"""By name: the root of an ingested table, and what its process said."""


def samples(data: Path) -> Iterator[tuple[str, str, bytes]]:
    """Name, wnid and bytes of every image."""
    for name in ARCHIVES:
        with tarfile.open(data / name) as archive:
            truth = _truth(data / name)
            for member in archive:
                stream = archive.extractfile(member) if member.name.endswith(".JPEG") else None
                if stream is not None:
                    file = member.name.rsplit("/", 1)[-1]
                    yield file.removesuffix(".JPEG"), truth.get(file) or file.split("_")[0], stream.read()


def _truth(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name.endswith("val_annotations.txt"):
                lines = archive.extractfile(member).read().decode().splitlines()  # type: ignore[union-attr]
                return dict(line.split("\t")[:2] for line in lines)
    return {}


@pytest.fixture(scope="module")
def shards(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All images as WebDataset shards of a thousand."""
    root = tmp_path_factory.mktemp("shards")
    waiting, number = samples(test_data), 0
    while batch := list(islice(waiting, SHARD)):
        pairs = ((f"{stem}.cls", wnid.encode(), f"{stem}.jpg", image) for stem, wnid, image in batch)
        tar(root / f"{number:06d}.tar", (f for a, b, c, d in pairs for f in ((a, b), (c, d))))
        number += 1
    assert number == 30
    return root


def ingested(source: Path, root: Path) -> dict[str, Any]:
    return measured(root, "tests.support.peak_memory", "ingest", str(source), str(root), "0.2")


def measured(root: Path, *arguments: str) -> dict[str, Any]:
    """What a process of its own says at its end."""
    command = [sys.executable, "-m", *arguments]
    ended = subprocess.run(command, cwd=REPOSITORY, env=environment(root), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def roots(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Roots:
    """5,000 and 30,000 images taken in: where, and what the process said."""
    few = tmp_path_factory.mktemp("few")
    for shard in sorted(shards.iterdir())[2:30:6]:  # five, both kinds of names among them
        (few / shard.name).hardlink_to(shard)
    root = tmp_path_factory.mktemp("roots")
    sources = {"small": few, "large": shards}
    return {name: (root / name, ingested(source, root / name)) for name, source in sources.items()}


def tables(root: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(root.rglob("out/**/*.parquet"))}


def test_memory_is_flat_and_nothing_is_lost(roots: Roots) -> None:
    (_, small), (root, large) = roots["small"], roots["large"]
    assert (small["read"], large["read"]) == (5000, 30_000)
    for found in (small, large):
        assert found["read"] == found["written"] + found["dead_letter"]
    assert large["dead_letter"] == 0
    assert sorted(large["key_rule"].values()) == [10_000, 20_000]
    assert len(large["classes"]) == 200
    assert large["peak_kb"] < 1.2 * small["peak_kb"], (small["peak_kb"], large["peak_kb"])
    assert len(tables(root)) == 17


@pytest.mark.parametrize("stage", ["tokenize", "statistics"])
def test_memory_of_the_next_stages_is_flat(stage: str, roots: Roots, tmp_path: Path) -> None:
    def run(name: str) -> dict[str, Any]:
        images = roots[name][0] / "out" / "ingest"
        return measured(tmp_path / name, "tests.support.peak_memory", stage, str(images), str(tmp_path / name))

    small, large = run("small"), run("large")
    assert large["images"] > 5 * small["images"]
    assert large["images"] == 30_000 or stage == "statistics"
    assert large["peak_kb"] < 1.2 * small["peak_kb"], (small["peak_kb"], large["peak_kb"])


def test_killed_and_run_again_gives_the_same_bytes_and_does_the_rest_only(shards: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for shard in sorted(shards.iterdir())[18:22]:
        (few / shard.name).hardlink_to(shard)
    whole = ingested(few, tmp_path / "whole")
    root = tmp_path / "killed"
    arguments = [sys.executable, "-m", "tests.support.peak_memory", "ingest", str(few), str(root), "0.2"]
    with running(arguments, root) as process:
        process.wait_for(lambda: len(finished(root)) >= 3, 120)
        process.kill()
    found = finished(root)
    assert len(found) < 16
    assert ingested(few, root)["digest"] == whole["digest"]
    assert tables(root) == tables(tmp_path / "whole")
    again = finished(root)
    assert len(again) == 16
    assert {name: again[name] for name in found} == found, "a finished shard was made again"


def finished(root: Path) -> dict[str, int]:
    """The records of finished shards and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in root.glob("work/ingest/images/[a-z]*.jsonl")}
