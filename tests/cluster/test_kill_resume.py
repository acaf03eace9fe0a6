"""kill -9 at awkward moments: the next run continues, ends with the same bytes, and nothing is done twice."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import file_of, manifest, manifests, started, vimctl

pytestmark = pytest.mark.cluster

LONG = ["prior.steps=400", "prior.checkpoint_every=20", "prior.log_every=5"]
"""Long enough to be killed half-way, with checkpoints close together."""


def checkpoints(root: Path, component: str) -> list[int]:
    """Steps of the checkpoints in the component's work folder."""
    found = root.glob(f".work/{component}/**/step-*/index.json")
    return sorted(int(path.parent.name.removeprefix("step-")) for path in found)


def weights(root: Path, component: str) -> bytes:
    """The committed weights of the component's only artifact."""
    return file_of(root, manifest(root, component), "model.safetensors").read_bytes()


def curve(root: Path, component: str) -> list[dict[str, Any]]:
    """The committed rows of figures, in file order."""
    lines = file_of(root, manifest(root, component), "curves.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "m" in row]


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which everything before the prior is finished."""
    root = tmp_path_factory.mktemp("codes") / "root"
    vimctl("run", "tokenize", "--preset", "smoke", root=root)
    return root


def branch(codes: Path, target: Path) -> Path:
    """A copy of the finished artifacts alone: neither work folders nor history."""
    for component in ("ingest", "quantize", "tokenize"):
        shutil.copytree(codes / component, target / component)
    return target


@pytest.fixture(scope="module")
def uninterrupted(codes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which the prior was trained in one go."""
    root = branch(codes, tmp_path_factory.mktemp("whole") / "root")
    vimctl("run", "prior", "--preset", "smoke", *LONG, root=root)
    return root


def test_a_killed_prior_continues_and_ends_bit_identical(codes: Path, uninterrupted: Path, tmp_path: Path) -> None:
    root = branch(codes, tmp_path / "root")
    with started(root, "run", "prior", "--preset", "smoke", *LONG) as process:
        process.wait_for(lambda: bool(checkpoints(root, "prior")))
        process.kill()
    killed, first = time.time() * 1000, max(checkpoints(root, "prior"))
    assert manifests(root, "prior") == [], "half a training is no artifact"
    finished = vimctl("run", "prior", "--preset", "smoke", *LONG, root=root)

    rows = curve(root, "prior")
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps)), "every step is in the curve once"
    resumed = manifest(root, "prior")["properties"]["resumed_from"]
    assert resumed > 0, f"training began again at step 0:\n{finished.text[-4000:]}"
    before = [row["step"] for row in rows if row["step"] < resumed]
    assert before, "the curve reaches back to before the kill"
    assert all(row["t"] < killed for row in rows if row["step"] < min(resumed, first))
    assert manifest(uninterrupted, "prior")["properties"]["resumed_from"] == 0
    assert weights(root, "prior") == weights(uninterrupted, "prior")
    assert manifest(root, "prior")["digest"] == manifest(uninterrupted, "prior")["digest"]


def test_a_prior_killed_twice_ends_bit_identical(codes: Path, uninterrupted: Path, tmp_path: Path) -> None:
    root = branch(codes, tmp_path / "root")
    last = 0
    for _ in range(2):
        with started(root, "run", "prior", "--preset", "smoke", *LONG) as process:
            process.wait_for(lambda: max(checkpoints(root, "prior"), default=0) > last)  # noqa: B023
            process.kill()
        last = max(checkpoints(root, "prior"))
    vimctl("run", "prior", "--preset", "smoke", *LONG, root=root)
    assert weights(root, "prior") == weights(uninterrupted, "prior")


@pytest.mark.parametrize("component", ["ingest", "tokenize"])
def test_a_killed_beam_component_ends_with_the_same_digest(codes: Path, tmp_path: Path, component: str) -> None:
    root = tmp_path / "root"
    if component == "tokenize":
        root = branch(codes, root)
        shutil.rmtree(root / "tokenize")
    with started(root, "run", component, "--preset", "smoke") as process:
        process.wait_for(lambda: bool(list(root.glob(f".work/{component}/*/*"))))
        process.kill()
    assert manifests(root, component) == []
    vimctl("run", component, "--preset", "smoke", root=root)
    assert manifest(root, component)["digest"] == manifest(codes, component)["digest"]


def attempts(root: Path, component: str) -> list[str]:
    """Data folders of all attempts at a component."""
    return [path.name for path in root.glob(f"{component}/*/data-*")]


def test_two_pipelines_at_once_share_the_work(tmp_path: Path) -> None:
    root = tmp_path / "root"
    arguments = ["run", "--preset", "smoke"]
    with started(root, *arguments) as first, started(root, *arguments) as second:
        codes = [each.process.wait(timeout=900) for each in (first, second)]
        assert codes == [0, 0], "\n\n".join(each.text[-3000:] for each in (first, second))
    trained = ("quantize", "classify", "selector", "prior")
    for component in ("ingest", *trained, "tokenize", "sample", "select", "score", "tradeoff", "probe"):
        assert len(manifests(root, component)) == 1, component
        assert len(attempts(root, component)) == 1, component
    for component in ("quantize", "prior"):
        steps = [row["step"] for row in curve(root, component)]
        assert steps == sorted(set(steps)), f"{component} was trained twice into one place"
