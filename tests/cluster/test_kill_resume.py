"""kill -9 at awkward moments: the next run continues, ends with the same bytes, and nothing is done twice.

Whoever waits for somebody else's work takes it over when its owner is killed.
"""

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
STEPS = 400
LONGER = [f"prior.steps={STEPS}", "prior.checkpoint_every=20", "prior.log_every=10", "run.threads=1"]


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


def owned(root: Path) -> bool:
    """True if somebody has the work on the prior."""
    return any("prior" in path.parts for path in root.rglob("lease-*.json"))


def test_who_waits_takes_over_from_a_killed_owner(smoke_run: SmokeRun, tmp_path: Path) -> None:
    root = branched(smoke_run, tmp_path / "root", BEFORE)
    words = ["run", "prior", "--preset", "smoke", *LONGER]
    with started(root, *words) as owner:
        owner.wait_for(lambda: owned(root))
        # The second one is there before the first one's training begins, which takes Ray a while.
        with started(root, *words) as second:
            second.wait_for(lambda: f"process {owner.process.pid} on" in second.text)
            owner.wait_for(lambda: bool(checkpoints(root, "prior")))
            assert manifests(root, "prior") == []
            owner.kill()
            assert second.process.wait(300) == 0, second.text[-4000:]
            said = second.text
    assert "waiting" in said
    assert "taking over" in said
    made = manifest(root, "prior")
    assert made["properties"]["resumed_from"] > 0, "the second one began again at step 0"
    steps = [row["step"] for row in curve(root, "prior")]
    assert steps == list(range(9, STEPS, 10)), "every step is in the curve once, whoever made it"
    assert len(list(root.glob("prior/*/data-*"))) == 1, "nothing is left of the first attempt"
