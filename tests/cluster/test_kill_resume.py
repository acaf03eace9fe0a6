"""kill -9 at awkward moments: the next run continues, ends with the same bytes, and nothing is done twice."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.common import file_of, manifest, manifests, started, vimctl
from tests.support.smoke import SmokeRun, branched, checkpoints, curve

pytestmark = pytest.mark.cluster

LONG = ["prior.steps=400", "prior.checkpoint_every=20", "prior.log_every=5"]
"""Long enough to be killed half-way, with checkpoints close together."""
BEFORE = ["ingest", "quantize", "tokenize"]


def weights(root: Path, component: str) -> bytes:
    """The committed weights of the component's only artifact."""
    return file_of(root, manifest(root, component), "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(smoke_run: SmokeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which the prior was trained in one go."""
    root = branched(smoke_run, tmp_path_factory.mktemp("whole") / "root", BEFORE)
    vimctl("run", "prior", "--preset", "smoke", *LONG, root=root)
    return root


def test_a_prior_killed_twice_continues_and_ends_bit_identical(
    smoke_run: SmokeRun, uninterrupted: Path, tmp_path: Path
) -> None:
    root = branched(smoke_run, tmp_path / "root", BEFORE)
    saved: list[int] = [0]
    killed: list[float] = []
    for _ in range(2):
        with started(root, "run", "prior", "--preset", "smoke", *LONG) as process:
            process.wait_for(lambda: max(checkpoints(root, "prior"), default=0) > saved[-1])
            process.kill()
        killed.append(time.time() * 1000)
        saved.append(max(checkpoints(root, "prior")))
        assert manifests(root, "prior") == [], "half a training is no artifact"
    finished = vimctl("run", "prior", "--preset", "smoke", *LONG, root=root)

    rows = curve(root, "prior")
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps)), "every step is in the curve once"
    resumed = manifest(root, "prior")["properties"]["resumed_from"]
    assert resumed > saved[1], f"training began again before the second kill:\n{finished.text[-4000:]}"
    # What was trained before a kill is there as it was, and not once more.
    for step, end in zip(saved[1:], killed, strict=True):
        before = [row for row in rows if row["step"] < min(step, resumed)]
        assert before, "the curve reaches back to before the kill"
        assert all(row["t"] < end for row in before)
    assert manifest(uninterrupted, "prior")["properties"]["resumed_from"] == 0
    assert weights(root, "prior") == weights(uninterrupted, "prior")
    assert manifest(root, "prior")["digest"] == manifest(uninterrupted, "prior")["digest"]


@pytest.mark.parametrize("component", ["ingest", "tokenize"])
def test_a_killed_beam_component_ends_with_the_same_digest(smoke_run: SmokeRun, tmp_path: Path, component: str) -> None:
    root = tmp_path / "root"
    run = ["run", component, "--preset", "smoke", "run.tracking_uri=off"]
    if component == "tokenize":
        branched(smoke_run, root, ["ingest", "quantize"])
    with started(root, *run) as process:
        process.wait_for(lambda: bool(list(root.glob(f".work/{component}/*/*"))))
        process.kill()
    assert manifests(root, component) == []
    vimctl(*run, root=root)
    assert manifest(root, component)["digest"] == smoke_run.manifests[component]["digest"]


def attempts(root: Path, component: str) -> list[str]:
    """Data folders of all attempts at a component."""
    return [path.name for path in root.glob(f"{component}/*/data-*")]


def test_two_pipelines_at_once_share_the_work(smoke_run: SmokeRun, tmp_path: Path) -> None:
    root = tmp_path / "root"
    arguments = ["run", "--preset", "smoke"]
    with started(root, *arguments) as first, started(root, *arguments) as second:
        codes = [each.process.wait(timeout=900) for each in (first, second)]
        assert codes == [0, 0], "\n\n".join(each.text[-3000:] for each in (first, second))
    for component in smoke_run.manifests:
        assert len(manifests(root, component)) == 1, component
        assert len(attempts(root, component)) == 1, component
    for component in ("classify", "selector", "quantize", "prior", "probe"):
        steps = [row["step"] for row in curve(root, component)]
        assert steps == sorted(set(steps)), f"{component} was trained twice into one place"
