"""`sample` on a pool of actors: the bytes of one worker, whatever is lost on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.contract.api import Artifact, Context
from components.sample import component as sample
from tests.support import tiny_artifacts
from tests.support.ingested import contents
from tests.support.synthetic import context_of
from vim_core.config import SampleConfig
from vim_core.errors import VimError

CONFIGS = {
    "fp32": SampleConfig(count=23, lanes=4, shards=4, guidance=1.5, guidance_schedule="cosine"),
    "bf16": SampleConfig(count=23, lanes=4, shards=4, guidance=1.5, precision="bf16"),
    "completing": SampleConfig(count=23, lanes=4, shards=4, prefix=0.5),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    root = tmp_path_factory.mktemp("models")
    tokenizer = tiny_artifacts.tokenizer(root)
    codes = tiny_artifacts.codes(root, tokenizer, {"train": np.arange(6) % 3, "test": np.arange(5) % 3})
    return {"tokenizer": tokenizer, "prior": tiny_artifacts.prior(root, tokenizer), "codes": codes}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import ray

    from components.engines.ray.session import connect

    ctx = context_of(tmp_path_factory.mktemp("cluster"), "sample")
    ctx.run.workers = 3
    connect(ctx.run)
    yield
    ray.shutdown()


@pytest.fixture
def pool(tmp_path: Path, cluster: None) -> Context:
    ctx = context_of(tmp_path / "pool", "sample")
    ctx.run.workers = 3
    return ctx


def alone(root: Path, inputs: dict[str, Artifact], config: SampleConfig) -> dict[str, bytes]:
    """What one worker in this process makes."""
    ctx = context_of(root / "alone", "sample")
    sample.run(config, inputs, ctx)
    return contents(ctx)


def test_three_workers_make_the_bytes_of_one(inputs: dict[str, Artifact], tmp_path: Path, pool: Context) -> None:
    outcome = sample.run(CONFIGS["fp32"], inputs, pool)
    assert contents(pool) == alone(tmp_path, inputs, CONFIGS["fp32"])
    assert outcome.metrics["images_per_s"] > 0
    assert (pool.progress.done, pool.progress.total) == (23, 23)  # type: ignore[attr-defined]


def test_a_lost_actor_comes_back_and_draws_its_group_again(
    inputs: dict[str, Artifact], tmp_path: Path, pool: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.sample import draw as drawing

    once = tmp_path / "killed"

    class Mortal(drawing.GroupDrawer):
        def draw(self, group: Any) -> Any:
            if group.index == 3 and not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().draw(group)

    monkeypatch.setattr(drawing, "GroupDrawer", Mortal)
    sample.run(CONFIGS["bf16"], inputs, pool)
    monkeypatch.undo()
    assert once.exists()
    assert contents(pool) == alone(tmp_path, inputs, CONFIGS["bf16"])


def test_what_a_pool_finished_before_it_failed_is_kept(
    inputs: dict[str, Artifact], tmp_path: Path, pool: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.sample import draw as drawing

    class Broken(drawing.GroupDrawer):
        def draw(self, group: Any) -> Any:
            if group.index == 5:
                raise RuntimeError("a bad lane")
            return super().draw(group)

    monkeypatch.setattr(drawing, "GroupDrawer", Broken)
    pool.run.workers = 1
    pool.run.ray_address = "local"  # connected already: an actor although it is the only one
    with pytest.raises(VimError, match="sample: RuntimeError: a bad lane"):
        sample.run(CONFIGS["completing"], inputs, pool)
    monkeypatch.undo()
    kept = {path: path.stat().st_mtime_ns for path in Path(pool.work).rglob("*.parquet")}
    assert len(kept) == 3, "groups 0 to 4 are samples 0 to 19, and the last shard begins at 17"
    pool.out += "-again"
    pool.run.ray_address = ""
    sample.run(CONFIGS["completing"], inputs, pool)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert contents(pool) == alone(tmp_path, inputs, CONFIGS["completing"])
    assert "3 of 4 shards were finished by an earlier attempt" in pool.progress.notes  # type: ignore[attr-defined]
