"""Real Ray Train workers, a node each: what is interrupted ends with the bits of two plain processes that nobody stops.

What two plain processes lose beside one is in tests/integration/test_workers.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.contract.api import Context, Outcome
from components.tracking.shipping import SPOOL
from components.training import driver
from components.training.worker import FINAL, TrainingJob
from tests.support import workers
from tests.support.common import REPOSITORY, ray_cluster
from tests.support.synthetic import context_of
from tests.support.tiny import prior_config
from vim_core.config import PriorConfig, RunConfig
from vim_core.errors import VimError
from vim_core.storage import io
from vim_core.tasks.prior import PriorData
from vim_core.training.spool import parse_rows

pytestmark = pytest.mark.cluster

STEPS = 50
LONG_S = 15.0
"""Longer than any step, the first one's imports on a busy machine included."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster on this machine of two nodes with room for one worker each, joined by this process."""
    # Workers import this folder's tests; nodes are asked for drains, and whether they live, more often than usual.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.5")
        patch.setenv("RAY_health_check_period_ms", "1000")
        patch.setenv("OMP_NUM_THREADS", "1")
        with ray_cluster(1) as cluster:
            cluster.add_node(num_cpus=1)
            yield cluster


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of a training."""
    folder = tmp_path_factory.mktemp("data")
    workers.tables(folder)
    return folder


@dataclass
class Trial:
    """One training in a thread of this process, which the test may interrupt."""

    ctx: Context
    start: Callable[[], Outcome]
    outcome: Outcome | None = None
    error: Exception | None = None
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.outcome = self.start()
        except Exception as error:
            self.error = error

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What the training has said so far."""
        spool = io.scratch(self.ctx.work) / SPOOL
        return parse_rows(spool.read_bytes()) if spool.exists() else []

    @property
    def steps(self) -> list[int]:
        return [int(row["step"]) for row in self.rows if "m" in row]

    @property
    def saved(self) -> list[int]:
        """Steps of the whole checkpoints."""
        return [int(path.parent.name.removeprefix("step-")) for path in Path(self.ctx.work).glob("*/step-*/index.json")]

    def trained_before(self, step: int, end_s: float) -> bool:
        """True if all steps up to this one were done by then, and not once more afterwards."""
        return all(row["t"] <= end_s * 1000 for row in self.rows if "m" in row and row["step"] <= step)

    def wait_for(self, ready: Callable[[], bool], patience: float = 200) -> None:
        end = time.monotonic() + patience
        while not ready():
            assert self.thread.is_alive(), f"it ended too early: {self.error or self.outcome}"
            assert time.monotonic() < end, f"not ready after {patience} s: {self.rows[-3:]}"
            time.sleep(0.02)

    def finish(self, patience: float = 300) -> Outcome:
        self.thread.join(patience)
        assert not self.thread.is_alive(), f"not finished: {self.rows[-3:]}"
        if self.error:
            raise self.error
        assert self.outcome is not None
        return self.outcome

    def files(self) -> dict[str, bytes]:
        """What it left."""
        return left(Path(self.ctx.out))


def left(folder: Path) -> dict[str, bytes]:
    """The weights in a folder, and every figure but those of the machine."""
    curves = [json.loads(line) for line in (folder / "curves.jsonl").read_bytes().splitlines()]
    figures = [
        {"step": row["step"]}
        | {k: v for k, v in row["m"].items() if not k.endswith("per_s") and not k.startswith("system/")}
        for row in curves
    ]
    weights = (folder / "model.safetensors").read_bytes()
    return {"weights": weights, "figures": json.dumps(figures).encode()}


def codes_of(data: Path) -> PriorData:
    """The codes to train on and to evaluate with."""
    codes = [str(data / "codes.parquet")]
    return PriorData(codes, codes, 3, "t")


def trial(cluster: Any, root: Path, config: PriorConfig, data: Path, **run: Any) -> Trial:
    """Start a training with pauses in its steps on the cluster."""
    ctx = context_of(root, "prior")
    # Threads are not said: a worker asks for the one CPU of a node, whatever this machine has, and trains with one.
    fields = {"workers": 2, "threads": 0, "ray_address": cluster.address, "notice_every": 1, **run}
    ctx = replace(ctx, fingerprint=root.name.ljust(20, "0"), run=replace(ctx.run, **fields))
    task = "tests.support.slow_tasks:SlowPrior"
    return Trial(ctx, lambda: driver.train(task, config, codes_of(data), ctx))


def config_of(**fields: Any) -> PriorConfig:
    """With dropout, whose noise must be the same again."""
    return prior_config(**{"steps": STEPS, "batch": 8, "checkpoint_every": 10} | fields)


def train_workers() -> list[psutil.Process]:
    """The processes that train on the nodes of this cluster: another one on this machine is not ours to kill."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            title = " ".join(process.cmdline())
            if title.startswith("ray::") and "RayTrainWorker" in title:
                found.append(process)
    return sorted(found, key=lambda process: process.pid)


@pytest.fixture(scope="module")
def calm(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What two plain processes end with when nobody interrupts them: no Ray and no pause in a step."""
    root, config = tmp_path_factory.mktemp("calm"), config_of(checkpoint_every=1000)
    run = RunConfig(root=str(root), threads=1, device="cpu")
    task, spool, stuck = "vim_core.tasks.prior:PriorTask", str(root / "spool.jsonl"), str(root / "stuck")
    job = TrainingJob(task, config, codes_of(data), str(root), spool, run=run, stuck=stuck)
    workers.spawn(workers.job, 2, job)
    return left(root / FINAL)


def test_killed_and_terminated_workers_and_a_lost_node_cost_no_bit(
    cluster: Any, data: Path, tmp_path: Path, calm: dict[str, bytes]
) -> None:
    rough = trial(cluster, tmp_path, config_of(), data)
    first = end_one(rough, 12, signal.SIGKILL, [])
    killed = time.time()
    end_one(rough, 22, signal.SIGTERM, first)
    terminated = time.time()
    # Not a step that was planned: the notice made this checkpoint.
    rough.wait_for(lambda: any(22 < step < 30 for step in rough.saved))
    rough.wait_for(lambda: max(rough.saved) >= 30)
    assert rough.trained_before(9, killed)
    assert rough.trained_before(22, terminated)
    lost = time.time()
    lose_one(cluster)
    outcome = rough.finish()
    assert outcome.properties["resumed_from"] >= 30
    assert rough.trained_before(29, lost)
    assert rough.files() == calm


def lose_one(cluster: Any) -> None:
    """A node goes without a word, and another one comes."""
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    cluster.add_node(num_cpus=1)


def end_one(rough: Trial, step: int, end: signal.Signals, before: list[psutil.Process]) -> list[psutil.Process]:
    """Once this step is done, send the signal to one of the two workers that were not there before; returns them."""
    rough.wait_for(lambda: max(rough.steps, default=0) >= step)
    training_now = [process for process in train_workers() if process not in before]
    assert len(training_now) == 2
    training_now[-1].send_signal(end)
    return training_now


def test_an_announced_loss_leaves_a_checkpoint_and_a_stuck_step_is_noticed(
    cluster: Any, data: Path, tmp_path: Path, calm: dict[str, bytes]
) -> None:
    import ray
    from ray.core.generated import autoscaler_pb2

    client: Any = ray._raylet.GcsClient(address=cluster.address)  # type: ignore[attr-defined]
    reasons: Any = autoscaler_pb2

    (data / "stuck-at-37").touch()
    rough = trial(cluster, tmp_path, config_of(checkpoint_every=35), data, step_timeout_s=LONG_S)
    rough.wait_for(lambda: max(rough.steps, default=0) >= 8)
    (node,) = cluster.worker_nodes
    reason = reasons.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    assert client.drain_node(node.node_id, reason, "test", int((time.time() + 60) * 1000))[0]
    rough.wait_for(lambda: bool(rough.saved))
    assert 8 < rough.saved[0] < 35, "the checkpoint answers the announcement"
    lost = time.time()
    lose_one(cluster)
    outcome = rough.finish()
    assert rough.trained_before(8, lost)
    assert outcome.properties["resumed_from"] == 35
    assert any("started again: worker" in row.get("note", "") for row in rough.rows)
    assert rough.files() == calm


def test_a_training_that_stays_stuck_says_where(cluster: Any, data: Path, tmp_path: Path) -> None:
    (data / "stuck-at-3").touch()
    rough = trial(cluster, tmp_path, config_of(), data, step_timeout_s=LONG_S, workers=1, restarts=0)
    with pytest.raises(VimError, match=r"worker 0: step 3 took longer than run\.step_timeout_s=15; its stacks are in"):
        rough.finish()
    (stacks,) = (Path(rough.ctx.work) / "stuck").glob("*.txt")
    assert "in step" in stacks.read_text()
