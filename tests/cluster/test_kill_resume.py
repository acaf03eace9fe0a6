"""kill -9 at awkward moments: the next run continues, ends with the same bytes, and nothing is done twice.

Whoever waits for somebody else's work takes it over when its owner is killed.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.common import Running, file_of, manifest, manifests, started, vimctl
from tests.support.smoke import SmokeRun, branched, checkpoints, curve

pytestmark = pytest.mark.cluster

STEPS = 400
"""Long enough to be killed half-way, with checkpoints close together."""
PRIOR = [
    *("run", "prior", "--preset", "smoke", f"prior.steps={STEPS}", "prior.checkpoint_every=20", "prior.log_every=5"),
    *("run.threads=1", "run.tracking_uri=off"),
]
BEFORE = ["ingest", "quantize", "tokenize"]
SHORT = [f"{component}.steps=20" for component in ("classify", "selector", "quantize", "prior", "probe")]


def weights(root: Path, component: str) -> bytes:
    """The committed weights of the component's only artifact."""
    return file_of(root, manifest(root, component), "model.safetensors").read_bytes()


def owned(root: Path, pid: int) -> bool:
    """True if this process has the work on the prior."""
    leases = [path for path in root.rglob("lease-*.json") if "prior" in path.parts]
    return f'"pid": {pid}' in max(leases).read_text() if leases else False


def test_a_prior_killed_twice_is_taken_over_and_ends_bit_identical(smoke_run: SmokeRun, tmp_path: Path) -> None:
    root = branched(smoke_run, tmp_path / "root", BEFORE)
    saved: list[int] = [0]
    killed: list[float] = []

    def kill_once_saved(owner: Running) -> None:
        owner.wait_for(lambda: max(checkpoints(root, "prior"), default=0) > saved[-1])
        owner.kill()
        killed.append(time.time() * 1000)
        saved.append(max(checkpoints(root, "prior")))
        assert manifests(root, "prior") == [], "half a training is no artifact"

    with started(root, *PRIOR) as first:
        kill_once_saved(first)
    with started(root, *PRIOR) as owner:
        owner.wait_for(lambda: owned(root, owner.process.pid))
        # The third one is there before the second one's training begins, which takes Ray a while.
        with started(root, *PRIOR) as third:
            third.wait_for(lambda: f"process {owner.process.pid} on" in third.text)
            kill_once_saved(owner)
            assert third.process.wait(300) == 0, third.text[-4000:]
            printed = third.text
    assert "waiting" in printed
    assert "taking over" in printed

    rows = curve(root, "prior")
    assert [row["step"] for row in rows] == list(range(4, STEPS, 5)), "every step is there once, whoever made it"
    assert len(list(root.glob("prior/*/data-*"))) == 1, "nothing is left of the first attempts"
    resumed = manifest(root, "prior")["properties"]["resumed_from"]
    assert resumed >= saved[2] > saved[1], f"training began again before the second kill:\n{printed[-4000:]}"
    # What was trained before a kill is there as it was, and not once more.
    for step, end in zip(saved[1:], killed, strict=True):
        before = [row for row in rows if row["step"] < min(step, resumed)]
        assert before, "the curve reaches back to before the kill"
        assert all(row["t"] < end for row in before)

    whole = branched(smoke_run, tmp_path / "whole", BEFORE)
    vimctl(*PRIOR, root=whole)
    assert manifest(whole, "prior")["properties"]["resumed_from"] == 0
    assert weights(root, "prior") == weights(whole, "prior")
    assert manifest(root, "prior")["digest"] == manifest(whole, "prior")["digest"]


def test_a_killed_ingest_ends_with_the_same_digest(smoke_run: SmokeRun, tmp_path: Path) -> None:
    root = tmp_path / "root"
    run = ["run", "ingest", "--preset", "smoke", "run.tracking_uri=off"]
    with started(root, *run) as process:
        process.wait_for(lambda: bool(list(root.glob(".work/ingest/*/*"))))
        process.kill()
    assert manifests(root, "ingest") == []
    vimctl(*run, root=root)
    assert manifest(root, "ingest")["digest"] == smoke_run.manifests["ingest"]["digest"]


def attempts(root: Path, component: str) -> list[str]:
    """Data folders of all attempts at a component."""
    return [path.name for path in root.glob(f"{component}/*/data-*")]


def test_two_pipelines_at_once_share_the_work(smoke_run: SmokeRun, tmp_path: Path) -> None:
    root = tmp_path / "root"
    arguments = ["run", "--preset", "smoke", *SHORT]
    with started(root, *arguments) as first, started(root, *arguments) as second:
        codes = [each.process.wait(timeout=900) for each in (first, second)]
        assert codes == [0, 0], "\n\n".join(each.text[-3000:] for each in (first, second))
    for component in smoke_run.manifests:
        assert len(manifests(root, component)) == 1, component
        assert len(attempts(root, component)) == 1, component
    for component in ("classify", "selector", "quantize", "prior", "probe"):
        steps = [row["step"] for row in curve(root, component)]
        assert steps == sorted(set(steps)), f"{component} was trained twice into one place"
