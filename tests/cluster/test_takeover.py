"""Two people run one preset: whoever waits takes the work over when its owner is killed, and goes on from there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.common import manifest, manifests, started
from tests.support.smoke import SmokeRun, branched, checkpoints, curve

pytestmark = pytest.mark.cluster

STEPS = 800
LONG = [f"prior.steps={STEPS}", "prior.checkpoint_every=20", "prior.log_every=10", "run.threads=1"]


def owned(root: Path) -> bool:
    """True if somebody has the work on the prior."""
    return any("prior" in path.parts for path in root.rglob("lease-*.json"))


def test_who_waits_takes_over_from_a_killed_owner(smoke_run: SmokeRun, tmp_path: Path) -> None:
    root = branched(smoke_run, tmp_path / "root", ["ingest", "quantize", "tokenize"])
    words = ["run", "prior", "--preset", "smoke", *LONG]
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
